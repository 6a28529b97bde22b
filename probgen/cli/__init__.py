"""The command line. Its modules import torch only when a command runs, so that ``--help`` is quick."""
