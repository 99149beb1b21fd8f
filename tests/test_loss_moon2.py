"""The formulas against a float64 reference written as double loops, and by hand."""

import math

import pytest
import torch

from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES
from loss_moon2 import Moon2Loss, Products, Role, View, dynamic_filter, objective_weights, sparsity_loss

B, D, Z = 6, 8, 3
OBJECTIVES = list(INTER_OBJECTIVES + INTRA_OBJECTIVES)


def make_batch(seed: int = 0, requires_grad: bool = False):
    """Six triplets: queries of all three kinds, a negative without picture, shared products and groups, a W*."""
    generator = torch.Generator().manual_seed(seed)

    def view(present):
        embeddings = torch.nn.functional.normalize(torch.randn(B, D, generator=generator), dim=-1)
        usage = torch.rand(B, Z, generator=generator).softmax(-1)
        return View(embeddings.requires_grad_(requires_grad), usage, torch.tensor(present, dtype=torch.bool))

    def role(has_text, has_image):
        both = [text and image for text, image in zip(has_text, has_image, strict=True)]
        t, i, mm = view(has_text), view(has_image), view(both)
        own = [mm if both[b] else i if has_image[b] else t for b in range(B)]
        return Role(t, i, mm, torch.stack([chosen.embeddings[b] for b, chosen in enumerate(own)]))

    query = role([1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1])
    positive, negative = role([1] * B, [1] * B), role([1] * B, [1, 1, 0, 1, 1, 1])
    products = Products(
        positive,
        negative,
        positive_id=torch.tensor([1, 2, 3, 4, 5, 1]),
        negative_id=torch.tensor([11, 12, 13, 14, 15, 2]),
        positive_group=torch.tensor([1, 2, 3, 3, 5, 1]),
        negative_group=torch.tensor([11, 12, 13, 5, 15, 2]),
    )
    return query, products, torch.randn(Z, len(OBJECTIVES), generator=generator)


def reference(query, products, dual_alignment, loss: Moon2Loss, progress: float, aux: float) -> dict:
    """MOON2.0, sections 2 to 4, with loops over rows in float64; shares no code with loss_moon2."""
    p, n = products.positive, products.negative
    numbers = lambda tensor: tensor.detach().double().tolist()  # noqa: E731
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    targets = numbers(p.own) + numbers(n.own)
    ids = products.positive_id.tolist() + products.negative_id.tolist()
    groups = products.positive_group.tolist() + products.negative_group.tolist()

    def nce(anchor, target_of, candidates, own, temperature):
        terms = {c: math.exp(dot(anchor, target_of[c]) / temperature) for c in candidates}
        return -math.log(terms[own] / sum(terms.values()))

    def rivals(own, among):
        return [c for c in among if c == own or (ids[c] != ids[own] and groups[c] != groups[own])]

    queries = numbers(query.own)
    margin = loss.filter_margin * (1 - progress)
    gaps = [dot(queries[b], targets[b]) - dot(queries[b], targets[B + b]) for b in range(B)]
    phi = [1 / (1 + math.exp(-loss.filter_sharpness * (gap - margin))) for gap in gaps]
    weight = [1.0 if value >= loss.filter_threshold else value for value in phi]
    weight = [value * B / sum(weight) for value in weight]
    if progress < loss.filter_warmup:
        weight = [1.0] * B

    losses, members = {}, {}
    for name, view in zip(INTER_OBJECTIVES, (query.t, query.i, query.mm), strict=True):
        rows = [b for b in range(B) if view.present[b]]
        anchors = numbers(view.embeddings)
        each = [weight[b] * nce(anchors[b], targets, rivals(b, range(2 * B)), b, loss.temperature) for b in rows]
        losses[name] = sum(each) / len(each)
        members[name] = [view.usage[b].double().tolist() for b in rows]
    image = numbers(p.i.embeddings) + numbers(n.i.embeddings)
    text = numbers(p.t.embeddings) + numbers(n.t.embeddings)
    both = [c for c in range(2 * B) if [*(p.mm.present), *(n.mm.present)][c]]
    usages = {"i2t": torch.cat([p.i.usage, n.i.usage]), "t2i": torch.cat([p.t.usage, n.t.usage])}
    for name, anchors, others in (("i2t", image, text), ("t2i", text, image)):
        each = [nce(anchors[c], others, rivals(c, both), c, loss.intra_temperature) for c in both]
        losses[name] = sum(each) / len(each)
        members[name] = [usages[name][c].double().tolist() for c in both]

    preference = []
    for row in dual_alignment.double().tolist():
        exponentials = [math.exp(value) for value in row]
        preference.append([value / sum(exponentials) for value in exponentials])
    omega = {
        name: sum(preference[z][m] * usage[z] for usage in members[name] for z in range(Z)) / len(members[name])
        for m, name in enumerate(OBJECTIVES)
    }
    if loss.objective_weighting == "uniform":
        omega = dict.fromkeys(OBJECTIVES, 1 / len(OBJECTIVES))
    sparsity = -sum(value * math.log(value) for row in preference for value in row) / Z
    total = sum(omega[name] * losses[name] for name in OBJECTIVES)
    total += loss.aux_loss_weight * aux + loss.sparsity_loss_weight * sparsity
    return {"loss": total, "losses": losses, "omega": omega, "phi": phi, "weight": weight, "sparsity": sparsity}


@pytest.mark.parametrize("weighting", ["learned", "detached", "uniform"])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_loss_equals_a_double_loop_reference(weighting, progress):
    loss = Moon2Loss(objective_weighting=weighting, temperature=0.1, intra_temperature=0.2, filter_sharpness=3.0)
    query, products, dual_alignment = make_batch()
    output = loss(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.5), progress)
    expected = reference(query, products, dual_alignment, loss, progress, aux=1.5)
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    for name in OBJECTIVES:
        assert output.objective_losses[name].item() == pytest.approx(expected["losses"][name], rel=1e-5)
        assert output.omega[name].item() == pytest.approx(expected["omega"][name], rel=1e-5)
    assert output.phi.tolist() == pytest.approx(expected["phi"], rel=1e-5)
    assert output.weight.tolist() == pytest.approx(expected["weight"], rel=1e-5)
    assert output.sparsity.item() == pytest.approx(expected["sparsity"], rel=1e-5)


def test_low_precision_embeddings_are_scored_in_float32():
    query, products, dual_alignment = make_batch()
    exact = Moon2Loss()(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Moon2Loss()(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5)
    assert inside.loss.dtype == torch.float32 and inside.loss.item() == exact.loss.item()


@pytest.mark.parametrize("weighting, moves", [("learned", True), ("detached", False), ("uniform", False)])
def test_who_receives_a_gradient(weighting, moves):
    """W* learns from the losses only where the weights are learned; L_sparsity always reaches it."""
    query, products, dual_alignment = make_batch()
    dual_alignment.requires_grad_()
    without = Moon2Loss(objective_weighting=weighting, sparsity_loss_weight=0.0)
    loss = without(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss
    gradient = torch.autograd.grad(loss, dual_alignment, allow_unused=True)[0] if loss.requires_grad else None
    assert (gradient is not None and bool(gradient.any())) == moves
    sparse = Moon2Loss(objective_weighting=weighting, sparsity_loss_weight=1.0)
    sparse(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss.backward()
    assert dual_alignment.grad.any()


def test_rows_without_a_view_do_no_harm():
    """What stands in the rows that lack a modality changes nothing, not even if it is not a number."""
    query, products, dual_alignment = make_batch()
    expected = Moon2Loss()(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss
    spoilt = Role(*(View(view.embeddings.clone(), view.usage.clone(), view.present) for view in query[:3]), query.own)
    for view in spoilt[:3]:
        view.embeddings[~view.present] = float("nan")
        view.usage[~view.present] = float("nan")
    assert torch.equal(Moon2Loss()(spoilt, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss, expected)


def test_an_objective_without_rows_is_left_out():
    query, products, dual_alignment = make_batch()
    nobody = torch.zeros(B, dtype=torch.bool)
    query = query._replace(i=query.i._replace(present=nobody), mm=query.mm._replace(present=nobody))
    output = Moon2Loss()(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5)
    assert set(output.objective_losses) == {"t2mm", "i2t", "t2i"}
    assert output.omega["i2mm"] == 0 and torch.isfinite(output.loss)


def test_one_triplet_and_identical_vectors():
    query, products, dual_alignment = make_batch(requires_grad=True)
    first = lambda role: Role(*(View(*(x[2:3] for x in view)) for view in role[:3]), role.own[2:3])  # noqa: E731
    one = Products(first(products.positive), first(products.positive), *(key[2:3] for key in products[2:]))
    output = Moon2Loss(temperature=0.01)(first(query), one, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.weight.tolist() == [1.0]


def test_filter_weights_by_hand():
    """Section 4 with round numbers: gaps 1, 0.3, 0.1 and -0.5, kappa 10, margin 0.1, delta 0.6."""
    query = torch.tensor([[1.0, 0.0]] * 4)
    positive = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.4, 0.0], [0.0, 1.0]])
    negative = torch.tensor([[0.0, 1.0], [0.2, 0.0], [0.3, 0.0], [0.5, 0.0]])
    phi, weight = dynamic_filter(query, positive, negative, threshold=0.6, sharpness=10.0, margin=0.1)
    assert phi.tolist() == pytest.approx([0.999877, 0.880797, 0.5, 0.002473], abs=1e-6)
    raw = torch.tensor([1.0, 1.0, 0.5, 0.0024726])
    torch.testing.assert_close(weight, raw / raw.mean())
    assert weight.mean().item() == pytest.approx(1.0)


def test_margin_decays_and_warmup_keeps_all():
    query, products, dual_alignment = make_batch()
    run = lambda progress: Moon2Loss()(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), progress)  # noqa: E731
    start, middle, end = run(0.0), run(0.5), run(1.0)
    assert start.weight.tolist() == [1.0] * B and not torch.equal(middle.weight, start.weight)
    assert (end.phi > middle.phi).all() and (middle.phi > start.phi).all()


def test_omega_and_sparsity_by_hand():
    usage = {"t2mm": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "i2mm": torch.tensor([[0.25, 0.75]])}
    log = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    omega = objective_weights(log, ["t2mm", "i2mm"], usage)
    assert omega["t2mm"].item() == pytest.approx((0.9 + 0.5) / 2)
    assert omega["i2mm"].item() == pytest.approx(0.25 * 0.1 + 0.75 * 0.5)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1) + math.log(0.5)) / 2
    assert sparsity_loss(log).item() == pytest.approx(entropy)
    assert sparsity_loss(torch.tensor([[50.0, 0.0]])).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"temperature": 0.0}, "temperature"),
        ({"intra_temperature": -1.0}, "intra_temperature"),
        ({"filter_threshold": 1.5}, "filter_threshold"),
        ({"aux_loss_weight": -0.1}, "aux_loss_weight"),
        ({"objective_weighting": "free"}, "learned, detached, uniform"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        Moon2Loss(**options)
