"""The contracts of models, guides and objectives as small checks, for ours and for yours.

:func:`probgen.testing.check_model`, ``check_guide`` and ``check_objective`` run all that apply to one object;
:func:`probgen.testing.parametrize_with_checks` makes a test of pytest of each. One that does not apply says why.
"""
