"""The Gaussian mixture against enumeration."""

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Normal

from probgen.errors import ArgumentError
from probgen.models import GaussianMixture


def pair(data_dim: int = 3, num_components: int = 4) -> tuple[GaussianMixture, GaussianMixture]:
    """The same mixture with its component summed out and kept."""
    summed = GaussianMixture(data_dim, num_components).double()
    kept = GaussianMixture(data_dim, num_components, summed_out=False).double()
    with torch.no_grad():
        for parameter in summed.parameters():
            parameter.normal_()
    kept.load_state_dict(summed.state_dict())
    return summed, kept


def enumerated(model: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """The joint log p(x, c) by hand, ``[B, C]``."""
    columns = []
    for c in range(model.num_components):
        scale = torch.log1p(model.raw_scales[c].exp()) + model.min_scale
        columns.append(model.mixture_logits.log_softmax(0)[c] + Normal(model.locs[c], scale).log_prob(x).sum(-1))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("num_components", [1, 4])
def test_evidence_and_posterior_are_enumeration(num_components: int) -> None:
    model, _ = pair(num_components=num_components)
    x = torch.randn(7, 3, dtype=torch.float64)
    joint = enumerated(model, x)
    torch.testing.assert_close(model.log_evidence(x), joint.logsumexp(-1))
    torch.testing.assert_close(model.posterior(x).probs, joint.softmax(-1))


def test_summed_out_site_is_the_evidence() -> None:
    model, _ = pair()
    x = torch.randn(7, 3, dtype=torch.float64)
    traced = pyro.poutine.trace(model).get_trace(x)
    traced.compute_log_prob()
    assert [n for n in traced.stochastic_nodes if n != "data"] == []
    torch.testing.assert_close(traced.nodes["x"]["log_prob"], model.log_evidence(x))


def test_kept_site_enumerates_to_the_evidence() -> None:
    summed, kept = pair()
    x = torch.randn(7, 3, dtype=torch.float64)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    torch.testing.assert_close(
        torch.tensor(-elbo.loss(kept, lambda *_: None, x)),
        summed.log_evidence(x).sum().float().detach(),
        rtol=1e-6,
        atol=0,
    )


def test_kept_joint_is_the_formula() -> None:
    _, kept = pair()
    x = torch.randn(7, 3, dtype=torch.float64)
    traced = pyro.poutine.trace(kept).get_trace(x)
    traced.compute_log_prob()
    z = traced.nodes["z"]["value"]
    joint = traced.nodes["z"]["log_prob"] + traced.nodes["x"]["log_prob"]
    torch.testing.assert_close(joint, enumerated(kept, x).gather(-1, z[:, None])[:, 0])


@pytest.mark.parametrize("which", [0, 1])
def test_generates_from_its_evidence(which: int) -> None:
    """Component frequencies, by the exact posterior, match the weights within five standard errors."""
    model = pair()[which]
    posterior = model.posterior(model(num_samples=20_000)).probs.detach()
    standard_error = posterior.std(0) / len(posterior) ** 0.5
    assert ((posterior.mean(0) - model.mixture_logits.softmax(0)).abs() < 5 * standard_error).all()


def test_scales_start_near_one_and_are_bounded_below() -> None:
    model = GaussianMixture(2, 3, min_scale=0.1)
    torch.testing.assert_close(model.scales, torch.full((3, 2), 1.1))
    with torch.no_grad():
        model.raw_scales.fill_(-1e4)
    assert (model.scales >= 0.1).all()
    assert torch.isfinite(model.log_evidence(model.locs[:1])).all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`min_scale` must be a finite number above 0"):
        GaussianMixture(2, 3, min_scale=0.0)
