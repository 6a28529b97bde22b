"""Checks of models: data in, data out, and the evidence."""

from typing import Any

import torch
from torch import Tensor

import probgen.programs
from probgen.core.bounds import iwae
from probgen.errors import ProbgenError
from probgen.programs.checks import check_values
from probgen.testing.checks.cases import Trial, keywords
from probgen.testing.checks.outcome import NotApplicable, check, require
from probgen.testing.checks.quadrature import log_evidence
from probgen.testing.checks.running import agree, fault, gap, only_tensor, record, replaced

CANDIDATES = (0.5, 2.0, -1.0, 1e6, -1e6)  # of which one lies outside any support that is not the whole line


@check("model")
def observes_something(trial: Trial) -> None:
    """The data are observed: a model that never conditions on them learns nothing from them."""
    require(
        bool(record(trial.model, trial.call).observed),
        "no site is observed",
        expected="one `pyro.sample(..., obs=x)` at least",
        cure="pass the data to a site by `obs=`",
    )


@check("model")
def agreed_names(trial: Trial) -> None:
    """Models of probgen call the plate `data`, the sites `z` or `z_1`, `z_2`, ..., and `x`: guides go with all."""
    if not type(trial.model).__module__.startswith("probgen."):
        raise NotApplicable("names are free in programs that are not probgen's")
    recorded = record(trial.model, trial.call)
    latents = set(recorded.drawn)
    agreed = latents in (set(), {"z"}) or latents == {f"z_{i + 1}" for i in range(len(latents))}
    frames = {(f.name, f.dim) for site in recorded.sites.values() for f in site["cond_indep_stack"]}
    require(
        agreed and set(recorded.observed) == {"x"} and frames == {("data", -1)},
        f"the sites are {sorted(recorded.sites)} in the plates {sorted(frames)}",
        expected="`x`, `z` or `z_1`, `z_2`, ..., and the plate `data` at dim -1",
        cure="rename them",
    )
    event = tuple(recorded.sites["x"]["fn"].event_shape)
    require(
        event == tuple(getattr(trial.model, "event_shape", event)),
        f"site 'x' has event shape {event}, and the model calls it {trial.model.event_shape}",
        expected="one shape",
        cure="use `.to_event(len(event_shape))`",
    )


@check("model")
def generates_without_data(trial: Trial) -> None:
    """Without data the model generates: nothing is observed, and as many data come as were asked for."""
    _require_generator(trial)
    for count in (1, 7):
        sample = torch.as_tensor(trial.model(num_samples=count))
        wanted = (count, *_event(trial))
        require(
            tuple(sample.shape) == wanted,
            f"`num_samples={count}` gives shape {tuple(sample.shape)}",
            expected=f"{wanted}",
            cure="make the plate that large where no data are given, and return the value of the data's site",
        )
    observed = record(trial.model, ((), {"num_samples": 2})).observed
    require(not observed, f"{list(observed)} are observed without data", expected="none", cure="pass `obs=None`")


def _require_generator(trial: Trial) -> None:
    if "num_samples" not in keywords(trial.model):
        raise NotApplicable("the model takes no `num_samples`, so it does not generate")


def _event(trial: Trial) -> tuple[int, ...]:
    return tuple(only_tensor(trial.call).shape[1:])


@check("model")
def samples_are_data(trial: Trial) -> None:
    """What the model generates has the dtype and support of data: it can be scored, plotted and trained on."""
    _require_generator(trial)
    sample = torch.as_tensor(trial.model(num_samples=7)).detach()
    x = only_tensor(trial.call)
    require(
        sample.is_floating_point() == x.is_floating_point(),
        f"samples are {sample.dtype} and data {x.dtype}",
        expected="the kind of dtype of the data",
        cure="return the value of the observed site itself",
    )
    if len(trial.call[0]) + len(trial.call[1]) > 1:
        return
    try:
        terms = probgen.programs.run_pair(trial.model, _prior_if_latent(trial, sample), sample)
    except ProbgenError as error:
        raise fault(
            f"a sample is refused as data: {error}", expected="samples in the support", cure="return x"
        ) from None
    require(
        bool(torch.isfinite(terms.log_weights).all()),
        "a sample has a log-density that is not finite",
        expected="finite numbers",
        cure="sample and score by one distribution",
    )


def _prior_if_latent(trial: Trial, x: Tensor) -> Any:
    return trial.pair_guide if record(trial.model, ((x,), {})).drawn else None


@check("model")
def num_samples_below_one_is_refused(trial: Trial) -> None:
    """`num_samples` of 0, less, or no whole number is refused by name: nothing generated is a silent loss."""
    _require_generator(trial)
    for wrong in (0, -1, 1.5, True):
        try:
            trial.model(num_samples=wrong)
        except ValueError as error:
            told = "num_samples" in str(error)
            require(told, f"the refusal says {error}", expected="`num_samples` in it", cure="raise an ArgumentError")
        else:
            raise fault(
                f"`num_samples={wrong!r}` is taken",
                expected="an ArgumentError",
                cure="check it by `probgen.arguments.positive_int`",
            )


@check("model")
def data_that_are_not_finite_are_refused(trial: Trial) -> None:
    """NaN in the data is an error that names it: a model that hides it trains on something else."""
    x = only_tensor(trial.call)
    if not x.is_floating_point():
        raise NotApplicable("the data are integers")
    for value in (torch.nan, torch.inf):
        _refused(trial, _with_first(x, value), f"{value} in the data is taken")


@check("model")
def data_outside_the_support_are_refused(trial: Trial) -> None:
    """Data outside the support of their site are an error: their density is no number that means something."""
    x = only_tensor(trial.call)
    observed = record(trial.model, trial.call).observed
    if not observed:
        raise NotApplicable("nothing is observed")
    site = next(iter(observed.values()))
    if not isinstance(site["value"], Tensor) or site["value"].shape != x.shape or not bool((site["value"] == x).all()):
        raise NotApplicable(f"site '{site['name']}' observes something else than the first argument")
    for value in CANDIDATES:
        wrong = _with_first(x, value)
        if bool((wrong == value).any()) and _outside(site, wrong):
            _refused(trial, wrong, f"{value:g} is taken, which is outside the support of site '{site['name']}'")
            return
    raise NotApplicable(f"every value is in the support of site '{site['name']}'")


def _with_first(x: Tensor, value: float) -> Tensor:
    wrong = x.clone()
    wrong.view(-1)[0] = value
    return wrong


def _outside(site: Any, value: Tensor) -> bool:
    try:
        check_values(site["name"], site["fn"], value)
    except ProbgenError:
        return True
    return False


def _refused(trial: Trial, x: Tensor, taken: str) -> None:
    args, kwargs = replaced(trial.call, x)
    try:
        probgen.programs.log_weights(trial.model, trial.pair_guide, *args, **kwargs)
    except ProbgenError:
        return
    raise fault(
        taken,
        expected="an error that names the value and where it is",
        cure="observe the data themselves: do not clamp, round or fill them, and do not mask by their values",
    )


@check("model")
def data_of_another_shape_are_refused(trial: Trial) -> None:
    """Data with twice the entries are an error: broadcasting would score something else in silence."""
    x = only_tensor(trial.call)
    if x.dim() < 2:
        raise NotApplicable("a datum is a single number, which has no other shape")
    _refused(trial, torch.cat([x, x], -1), f"data of shape {tuple(torch.cat([x, x], -1).shape)} are taken")


@check("model")
def evidence_agrees_with_quadrature(trial: Trial) -> None:
    """What the model calls its evidence is the integral of its density over the latents."""
    if not hasattr(trial.model, "log_evidence"):
        raise NotApplicable("the model has no `log_evidence`")
    claimed = trial.model.log_evidence(*trial.call[0], **trial.call[1])
    exact = log_evidence(trial.model, trial.call).to(claimed)
    require(
        bool(torch.allclose(claimed, exact, rtol=1e-3, atol=1e-3)),
        f"`log_evidence` and quadrature are {gap(claimed, exact)}",
        expected="equal numbers",
        cure="compare its formula with the sites of the program",
    )


@check("model")
def weights_are_log_weights(trial: Trial) -> None:
    """Log-weights are [K, batch], and with the prior as guide they are the likelihood: no site counts twice."""
    args, kwargs = trial.call
    terms = probgen.programs.run_pair(trial.model, trial.pair_guide, *args, num_particles=3, **kwargs)
    size = tuple(terms.batch_shape)
    require(
        tuple(terms.log_weights.shape) == (3, *size) and tuple(iwae(terms.log_weights).shape) == size,
        f"log-weights have shape {tuple(terms.log_weights.shape)}",
        expected=f"{(3, *size)}",
        cure="declare plates for data, and no others around every site",
    )
    if trial.guide is None:
        likelihood = torch.as_tensor(terms.log_likelihood).expand_as(terms.log_weights)
        require(
            agree(terms.log_weights, likelihood),
            f"with its prior as guide, weight and likelihood are {gap(terms.log_weights, likelihood)}",
            expected="equal numbers",
            cure="let latent sites depend on the data by nothing but their values",
        )
