"""PPO's arithmetic, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from factory.training.ppo import math as ppo_math
from factory.training.ppo.math import KlController

ALL = torch.ones(1, 3, dtype=torch.bool)
REWARDS = torch.tensor([[1.0, 0.0, 2.0]])
VALUES = torch.tensor([[0.5, 1.0, 1.5]])


def close(found: torch.Tensor, expected: list) -> bool:
    return torch.allclose(found, torch.tensor(expected), atol=1e-6)


def test_advantages_of_three_tokens():
    # delta_2 = 2 - 1.5 = 0.5; delta_1 = 0 + 0.9*1.5 - 1 = 0.35; delta_0 = 1 + 0.9*1 - 0.5 = 1.4
    # A_1 = 0.35 + 0.72*0.5 = 0.71; A_0 = 1.4 + 0.72*0.71 = 1.9112
    advantages, returns = ppo_math.gae(REWARDS, VALUES, ALL, 0.9, 0.8)
    assert close(advantages, [[1.9112, 0.71, 0.5]])
    assert close(returns, [[2.4112, 1.71, 2.0]])


def test_lambda_1_is_the_discounted_rest_less_the_value():
    advantages, returns = ppo_math.gae(REWARDS, VALUES, ALL, 0.9, 1.0)
    assert close(returns, [[1 + 0.81 * 2, 0.9 * 2, 2.0]])
    assert close(advantages, [[2.62 - 0.5, 1.8 - 1.0, 0.5]])


def test_lambda_0_is_one_step():
    advantages, _ = ppo_math.gae(REWARDS, VALUES, ALL, 0.9, 0.0)
    assert close(advantages, [[1.4, 0.35, 0.5]])


def test_padding_changes_no_advantage():
    junk = torch.full((1, 2), 7.0)
    mask = torch.tensor([[True, True, True, False, False]])
    padded = ppo_math.gae(
        torch.cat([REWARDS, junk], 1), torch.cat([VALUES, junk], 1), mask, 0.9, 0.8
    )
    plain = ppo_math.gae(REWARDS, VALUES, ALL, 0.9, 0.8)
    for long, short in zip(padded, plain, strict=True):
        assert torch.equal(long[:, :3], short)
        assert close(long[:, 3:], [[0.0, 0.0]])


def test_whitening_looks_at_the_mask():
    values = torch.tensor([[1.0, 3.0], [5.0, 99.0]])
    mask = torch.tensor([[True, True], [True, False]])
    # of 1, 3, 5: mean 3, variance 8/3
    unit = 2 / math.sqrt(8 / 3)
    assert close(ppo_math.whiten(values, mask), [[-unit, 0.0], [unit, 0.0]])
    kept = ppo_math.whiten(values, mask, shifts_mean=False)
    assert close(kept, [[3 - unit, 3.0], [3 + unit, 0.0]])
    assert ppo_math.masked_mean(values, mask) == 3


def test_one_token_is_whitened_to_zero():
    assert ppo_math.whiten(torch.tensor([[4.0]]), torch.tensor([[True]])).item() == 0


def test_the_score_comes_at_the_last_token_and_the_penalty_at_all():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    penalty = torch.tensor([[0.1, -0.2, 0.3], [0.4, 9.0, 9.0]])
    rewards = ppo_math.token_rewards(torch.tensor([2.0, -1.0]), penalty, mask)
    assert close(rewards, [[-0.1, 0.2, 1.7], [-1.4, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.5, 2.0, -2.4, True),  # 1.2 * 2: there is nothing more to gain
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.6, True),  # 0.8 * 2
        (1.5, -2.0, 3.0, False),  # made likelier though bad: pulled back in full
        (1.1, 2.0, -2.2, False),
    ],
)
def test_policy_loss_on_both_sides_of_the_clip(ratio, advantage, loss, is_clipped):
    logp = torch.tensor([math.log(ratio)], requires_grad=True)
    losses, clipped = ppo_math.policy_losses(
        logp, torch.zeros(1), torch.tensor([advantage]), cliprange=0.2
    )
    assert losses.item() == pytest.approx(loss)
    assert clipped.item() is is_clipped
    losses.sum().backward()
    assert (logp.grad.item() == 0) is is_clipped


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "is_clipped"),
    [
        (1.0, 0.0, 2.0, 0.5 * 1.8**2, True),  # moved 1.0 the right way, of which 0.2 counts
        (-1.0, 0.0, 2.0, 0.5 * 3.0**2, False),  # the wrong way: in full
        (0.1, 0.0, 2.0, 0.5 * 1.9**2, False),
        (-1.0, 0.0, -2.0, 0.5 * 1.8**2, True),
    ],
)
def test_value_loss_on_both_sides_of_the_clip(value, old, target, loss, is_clipped):
    losses, clipped = ppo_math.value_losses(
        torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), cliprange=0.2
    )
    assert losses.item() == pytest.approx(loss)
    assert clipped.item() is is_clipped


def test_k3_by_hand_and_in_expectation():
    # pi = (0.75, 0.25), ref = (0.5, 0.5)
    pi, ref = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    terms = ppo_math.k3(pi.log(), ref.log())
    assert terms[0].item() == pytest.approx(2 / 3 - math.log(2 / 3) - 1)
    assert terms[1].item() == pytest.approx(2 - math.log(2) - 1)
    exact = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert (pi * terms).sum().item() == pytest.approx(exact)


def test_explained_variance_by_hand():
    returns = torch.tensor([[1.0, 3.0, 5.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])

    def explained(*values: float) -> float:
        return ppo_math.explained_variance(torch.tensor([[*values, 0.0]]), returns, mask)

    assert explained(1.0, 3.0, 5.0) == pytest.approx(1)
    assert explained(2.0, 2.0, 2.0) == pytest.approx(0)
    # errors 0, 1, 2: variance 2/3, of 8/3
    assert explained(1.0, 2.0, 3.0) == pytest.approx(0.75)
    assert explained(5.0, 3.0, 1.0) == pytest.approx(-3)
    alike = ppo_math.explained_variance(torch.zeros(1, 3), torch.ones(1, 3), ALL)
    assert math.isnan(alike)


def test_the_adaptive_controller_by_hand():
    controller = KlController(0.1, target=6.0)
    controller.update(12.0)  # twice the target: bounded to 0.2
    assert controller.beta == pytest.approx(0.1 * 1.02)
    controller.update(6.0)
    assert controller.beta == pytest.approx(0.102)
    controller.update(5.4)  # 10% below
    assert controller.beta == pytest.approx(0.102 * 0.99)
    controller.update(-3.0)
    assert controller.beta == pytest.approx(0.102 * 0.99 * 0.98)


def test_a_fixed_controller_stays():
    controller = KlController(0.1)
    controller.update(100.0)
    assert controller.beta == 0.1
