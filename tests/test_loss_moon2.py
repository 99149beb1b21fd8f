"""The formulas against a float64 reference written as double loops, and by hand."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import HfArgumentParser

import loss_moon2
from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES
from loss_moon2 import (
    Moon2Loss,
    Products,
    Role,
    View,
    dynamic_filter,
    info_nce,
    objective_weights,
    router_z_loss,
    sparsity_loss,
)

B, D, Z = 6, 8, 3
OBJECTIVES = list(INTER_OBJECTIVES + INTRA_OBJECTIVES)


def make_batch(seed: int = 0):
    """Six triplets: queries of all three kinds, a negative without image, shared products and groups, a W*."""
    generator = torch.Generator().manual_seed(seed)

    def view(present):
        embeddings = torch.nn.functional.normalize(torch.randn(B, D, generator=generator), dim=-1)
        usage = torch.rand(B, Z, generator=generator).softmax(-1)
        return View(embeddings, usage, torch.tensor(present, dtype=torch.bool))

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


def changed(query: Role, products: Products, change) -> tuple[Role, Products]:
    """The batch with change(tensor, present) in place of the embeddings and the usage of every view, and of `own`."""

    def role(old: Role) -> Role:
        views = [View(change(view[0], view.present), change(view[1], view.present), view.present) for view in old[:3]]
        return Role(*views, change(old.own, torch.ones(len(old.own), dtype=torch.bool)))

    return role(query), products._replace(positive=role(products.positive), negative=role(products.negative))


def first_rows(products: Products, query: Role, count: int) -> tuple[Role, Products]:
    def role(old: Role) -> Role:
        return Role(*(View(*(part[:count] for part in view)) for view in old[:3]), old.own[:count])

    positive, negative = role(products.positive), role(products.negative)
    return role(query), Products(positive, negative, *(key[:count] for key in products[2:]))


def run(query, products, dual_alignment, progress: float = 0.5, **options):
    return Moon2Loss(**options)(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), progress)


def run_with_gradients(query, products, dual_alignment, progress: float = 0.5, **options):
    """The output, and the gradients of everything that went in; zeros for what the loss does not read."""
    leaves = [dual_alignment.clone().requires_grad_()]

    def leaf(tensor, present):
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    query, products = changed(query, products, leaf)
    output = run(query, products, leaves[0], progress, **options)
    return output, torch.autograd.grad(output.loss, leaves, allow_unused=True, materialize_grads=True)


def reference(query, products, dual_alignment, loss: Moon2Loss, progress: float, aux: float) -> dict:
    """MOON2.0, sections 2 to 4, with loops over rows in float64; shares no code with loss_moon2."""
    p, n = products.positive, products.negative
    numbers = lambda tensor: tensor.detach().double().tolist()  # noqa: E731
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    targets = numbers(p.own) + numbers(n.own)
    ids = products.positive_id.tolist() + products.negative_id.tolist()
    groups = products.positive_group.tolist() + products.negative_group.tolist()

    widths = {D, *(loss.matryoshka_dims or [])}

    def cosine(a, b, width):
        a, b = a[:width], b[:width]
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    def nce(anchor, target_of, candidates, own, temperature):
        total = 0.0
        for width in widths:
            terms = {c: math.exp(cosine(anchor, target_of[c], width) / temperature) for c in candidates}
            total -= math.log(terms[own] / sum(terms.values()))
        return total / len(widths)

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
    if loss.objective_weighting == "queries":  # the views of the queries share 3 of 5 parts
        views = {name: len(members[name]) for name in ("t2mm", "i2mm", "mm2mm")}
        assert len(set(views.values())) > 1
        omega = {name: 3 / 5 * views[name] / sum(views.values()) if name in views else 1 / 5 for name in OBJECTIVES}
    sparsity = -sum(value * math.log(value) for row in preference for value in row) / Z
    total = sum(omega[name] * losses[name] for name in OBJECTIVES)
    total += loss.aux_loss_weight * aux + loss.sparsity_loss_weight * sparsity
    return {"loss": total, "losses": losses, "omega": omega, "phi": phi, "weight": weight, "sparsity": sparsity}


@pytest.mark.parametrize("weighting", ["learned", "detached", "uniform", "queries"])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dims", [None, [1, 3], [5, D]])
def test_loss_equals_a_double_loop_reference(weighting, progress, dims):
    loss = Moon2Loss(
        objective_weighting=weighting,
        temperature=0.1,
        intra_temperature=0.2,
        filter_sharpness=3.0,
        matryoshka_dims=dims,
    )
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


@pytest.mark.parametrize("dims", [None, [2, 5]])
def test_a_low_temperature_equals_the_reference(dims):
    options = {"temperature": 0.01, "intra_temperature": 0.01, "matryoshka_dims": dims}
    output, gradients = run_with_gradients(*make_batch(), **options)
    expected = reference(*make_batch(), Moon2Loss(**options), progress=0.5, aux=1.0)
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("limit", [1, 30, 100])
@pytest.mark.parametrize("dims", [None, [2, 5]])
def test_chunks_change_neither_loss_nor_gradients(monkeypatch, limit, dims):
    """Rows one by one, and chunks with a rest: a limit of 100 takes the eleven products with both views as 9 and 2."""
    options = {"objective_weighting": "learned", "matryoshka_dims": dims}
    whole, expected = run_with_gradients(*make_batch(), **options)
    monkeypatch.setattr(loss_moon2, "MAX_SIMILARITIES", limit)
    output, gradients = run_with_gradients(*make_batch(), **options)
    torch.testing.assert_close(output.loss, whole.loss)
    for gradient, of_whole in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, of_whole)


class LargestTensor(TorchDispatchMode):
    """The bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [part for part in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(part)]
        self.bytes = max([self.bytes, *(part.nbytes for part in made)])
        return result


@pytest.mark.parametrize("dims", [(), (2, 3)])
def test_chunks_bound_the_memory(monkeypatch, dims):
    """64 x 128 similarities, 4,096 at a time over all lengths: no more are held after the forward pass or later."""
    count, limit = 64, 4096
    anchors, targets = torch.randn(count, 4, requires_grad=True), torch.randn(2 * count, 4, requires_grad=True)
    keys, own = torch.arange(2 * count).expand(2, -1), torch.arange(count)
    inputs = sum(part.untyped_storage().nbytes() for part in (anchors, targets, keys, own))

    def measure() -> tuple[int, int]:
        held = {}

        def hold(tensor):
            held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with LargestTensor() as largest:
            with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
                loss = info_nce(anchors, targets, own, keys, 0.1, dims).sum()
            after_forward = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
            loss.backward()
        return after_forward, largest.bytes

    whole = 4 * count * 2 * count
    held, largest = measure()
    assert held > whole * (1 + len(dims)) and largest >= whole
    monkeypatch.setattr(loss_moon2, "MAX_SIMILARITIES", limit)
    held, largest = measure()
    assert held <= inputs and largest * (1 + len(dims)) <= 4 * limit


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("limit", [1, loss_moon2.MAX_SIMILARITIES])
def test_low_precision_embeddings_are_scored_in_float32(monkeypatch, autocast, limit):
    monkeypatch.setattr(loss_moon2, "MAX_SIMILARITIES", limit)
    query, products, dual_alignment = make_batch()
    low = changed(query, products, lambda tensor, present: tensor.bfloat16())
    rounded = changed(*low, lambda tensor, present: tensor.float())
    options = {"matryoshka_dims": [4]}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output, gradients = run_with_gradients(*low, dual_alignment, **options)
    assert output.loss.dtype == output.phi.dtype == output.positive_similarity.dtype == torch.float32
    assert output.loss.item() == pytest.approx(run(*rounded, dual_alignment, **options).loss.item(), rel=1e-6)
    expected, exact_gradients = run_with_gradients(query, products, dual_alignment, **options)
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient.float(), exact, rtol=0.1, atol=0.05)


def test_without_gradient_chunks_are_not_computed_again(monkeypatch):
    expected = run(*make_batch()).loss
    monkeypatch.setattr(loss_moon2, "MAX_SIMILARITIES", 1)
    with torch.no_grad():
        torch.testing.assert_close(run(*make_batch()).loss, expected)


def test_matryoshka_trains_the_full_embedding_listed_or_not():
    plain, short = run(*make_batch()), run(*make_batch(), matryoshka_dims=[4])
    assert run(*make_batch(), matryoshka_dims=[D]).loss.item() == plain.loss.item()
    assert run(*make_batch(), matryoshka_dims=[D, 4]).loss.item() == short.loss.item() != plain.loss.item()


def test_matryoshka_leaves_filter_omega_and_similarities_to_the_full_embedding():
    plain, short = run(*make_batch()), run(*make_batch(), matryoshka_dims=[2, 4])
    assert torch.equal(short.phi, plain.phi) and torch.equal(short.weight, plain.weight) and short.omega == plain.omega
    assert short.positive_similarity == plain.positive_similarity
    assert short.negative_similarity == plain.negative_similarity


def test_matryoshka_lengths_beyond_the_embedding_are_refused():
    with pytest.raises(ValueError, match="matryoshka_dims has 9, but the embeddings have 8 dimensions"):
        run(*make_batch(), matryoshka_dims=[4, 9])


def test_matryoshka_lengths_on_the_command_line():
    (loss,) = HfArgumentParser(Moon2Loss).parse_args_into_dataclasses(["--matryoshka_dims", "4", "8"])
    assert loss.matryoshka_dims == [4, 8]


@pytest.mark.parametrize("weighting", ["learned", "detached", "uniform", "queries"])
def test_who_receives_a_gradient(weighting):
    """W* learns from the losses only where the weights are learned; L_sparsity always reaches it."""
    query, products, dual_alignment = make_batch()
    dual_alignment.requires_grad_()
    without = Moon2Loss(objective_weighting=weighting, sparsity_loss_weight=0.0)
    loss = without(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss
    gradient = torch.autograd.grad(loss, dual_alignment, allow_unused=True)[0] if loss.requires_grad else None
    assert (gradient is not None and bool(gradient.any())) == (weighting == "learned")
    sparse = Moon2Loss(objective_weighting=weighting, sparsity_loss_weight=1.0)
    sparse(query, products, dual_alignment, OBJECTIVES, torch.tensor(1.0), 0.5).loss.backward()
    assert dual_alignment.grad.any()


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf")])
@pytest.mark.parametrize("weighting", ["learned", "uniform", "queries"])
def test_rows_without_a_view_do_no_harm(rubbish, weighting):
    """What stands in the rows that lack a modality changes neither loss nor gradients, even if it is not a number."""
    query, products, dual_alignment = make_batch()
    options = {"objective_weighting": weighting, "matryoshka_dims": [4]}
    expected, expected_gradients = run_with_gradients(query, products, dual_alignment, **options)
    spoilt = changed(query, products, lambda tensor, present: tensor.masked_fill(~present[:, None], rubbish))
    assert not spoilt[0].i.embeddings.isfinite().all() and not spoilt[1].negative.i.usage.isfinite().all()
    output, gradients = run_with_gradients(*spoilt, dual_alignment, **options)
    assert torch.equal(output.loss, expected.loss)
    for gradient, of_clean in zip(gradients, expected_gradients, strict=True):
        assert gradient.isfinite().all() and torch.equal(gradient, of_clean)


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize(
    "role, views",
    [
        ("query", ["t"]),
        ("query", ["i"]),
        ("query", ["mm", "own"]),
        ("positive", ["t"]),
        ("negative", ["i"]),
        ("positive", ["mm", "own"]),
        ("negative", ["mm", "own"]),
    ],
)
def test_a_vector_that_is_not_a_number_shows_in_the_loss(role, views, progress):
    """In the warm-up (progress 0) too, where no weight carries it."""
    query, products, dual_alignment = make_batch()
    roles = {"query": query, "positive": products.positive, "negative": products.negative}
    for view in views:
        tensor = getattr(roles[role], view)
        row = 5  # this triplet has every view
        (tensor if view == "own" else tensor.embeddings)[row, 0] = float("nan")
    assert not run(query, products, dual_alignment, progress=progress).loss.isfinite()


def test_a_vector_that_is_not_a_number_shows_even_where_it_is_nobodys_negative():
    query, products, dual_alignment = make_batch()
    query, products = first_rows(products, query, 1)
    products.negative.own[:] = float("nan")
    products = products._replace(negative_id=products.positive_id)
    assert not run(query, products, dual_alignment, progress=0.0).loss.isfinite()


@pytest.mark.parametrize("everywhere, left", [(False, {"t2mm", "i2t", "t2i"}), (True, {"t2mm"})])
@pytest.mark.parametrize("weighting", ["learned", "detached", "uniform", "queries"])
def test_an_objective_without_rows_is_left_out(everywhere, left, weighting):
    query, products, dual_alignment = make_batch()
    nobody = torch.zeros(B, dtype=torch.bool)
    blind = lambda role: role._replace(i=role.i._replace(present=nobody), mm=role.mm._replace(present=nobody))  # noqa: E731
    if everywhere:
        products = products._replace(positive=blind(products.positive), negative=blind(products.negative))
    options = {"objective_weighting": weighting, "matryoshka_dims": [4]}
    output, gradients = run_with_gradients(blind(query), products, dual_alignment, **options)
    assert set(output.objective_losses) == left
    assert {name for name, value in output.omega.items() if value == 0} == set(OBJECTIVES) - left
    assert output.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dims", [None, [3]])
def test_one_triplet_whose_negative_looks_like_its_positive(dims):
    query, products, dual_alignment = make_batch()
    query, products = first_rows(products, query, 1)
    products = products._replace(negative=products.positive)
    output, gradients = run_with_gradients(query, products, dual_alignment, temperature=0.01, matryoshka_dims=dims)
    assert output.weight.tolist() == [1.0] and set(output.objective_losses) == {"t2mm", "i2t", "t2i"}
    for loss in output.objective_losses.values():
        assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("key", ["id", "group"])
def test_listings_of_one_product_are_no_negatives(key):
    query, products, dual_alignment = make_batch()
    one = torch.ones(B, dtype=torch.long)
    products = products._replace(**{f"positive_{key}": one, f"negative_{key}": one})
    output = run(query, products, dual_alignment)
    assert [loss.item() for loss in output.objective_losses.values()] == [0.0] * len(OBJECTIVES)


def test_a_zero_vector_gives_finite_gradients():
    """Its whole, or the dimensions that a shortened embedding keeps."""
    query, products, dual_alignment = make_batch()
    for view, columns in ((query.t, slice(None)), (products.positive.i, slice(3))):
        view.embeddings[0, columns] = 0
    query.own[0] = 0
    products.negative.own[1] = 0
    output, gradients = run_with_gradients(query, products, dual_alignment, matryoshka_dims=[3])
    assert output.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


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


def test_filter_weights_of_a_batch_that_is_below_the_threshold_as_a_whole():
    """The ratios of phi, with mean 1; phi itself is 0 in float32 in the second case (the scores are -600 and -601)."""
    query, negative = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[0.6, 0.0], [0.601, 0.0]])
    phi, weight = dynamic_filter(query, torch.zeros(2, 2), negative, threshold=0.6, sharpness=10.0, margin=0.0)
    torch.testing.assert_close(weight, phi / phi.mean())
    phi, weight = dynamic_filter(query, torch.zeros(2, 2), negative, threshold=0.6, sharpness=1000.0, margin=0.0)
    assert phi.tolist() == [0.0, 0.0]
    assert weight.tolist() == pytest.approx([2 * math.e / (math.e + 1), 2 / (math.e + 1)], rel=1e-3)


def test_a_batch_that_is_filtered_as_a_whole_still_trains():
    query, products, dual_alignment = make_batch()
    opposite = query._replace(own=-products.positive.own)
    products = products._replace(negative=products.negative._replace(own=query.own))
    output, gradients = run_with_gradients(opposite, products, dual_alignment, filter_sharpness=1000.0)
    assert output.kept == 0 and output.phi.tolist() == [0.0] * B
    assert output.weight.mean().item() == pytest.approx(1.0)
    assert output.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_margin_decays_and_warmup_keeps_all():
    start, middle, end = (run(*make_batch(), progress=progress) for progress in (0.0, 0.5, 1.0))
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


NUMBERS = [name for name, default in vars(Moon2Loss()).items() if isinstance(default, float)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, "0.1", None, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_none_or_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}; it must be .*number.*: .+"):
        Moon2Loss(**{name: value})


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"temperature": 0.0}, "similarities are divided by it"),
        ({"intra_temperature": 0}, "similarities are divided by it"),
        ({"filter_sharpness": 0.0}, "phi must grow"),
        ({"filter_threshold": 1.5}, "phi, which is compared with it"),
        ({"filter_warmup": 5}, "a share of the training"),
        ({"objective_weighting": "free"}, "learned, detached, uniform, queries"),
        ({"objective_weighting": None}, "learned, detached, uniform, queries"),
        ({"matryoshka_dims": []}, "list of different positive whole numbers"),
        ({"matryoshka_dims": [4, 0]}, "how many dimensions a shortened embedding keeps"),
        ({"matryoshka_dims": [-4]}, "how many dimensions"),
        ({"matryoshka_dims": [4, 4]}, "different"),
        ({"matryoshka_dims": [4.0]}, "whole numbers"),
        ({"matryoshka_dims": [True]}, "whole numbers"),
        ({"matryoshka_dims": 4}, "list"),
        ({"matryoshka_dims": "48"}, "list"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, reason):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} .*{reason}"):
        Moon2Loss(**options)


def test_options_at_the_ends_of_their_ranges_are_taken():
    ends = {
        "aux_loss_weight": 0,
        "sparsity_loss_weight": 0.0,
        "filter_margin": 0.0,
        "filter_threshold": 1,
        "filter_warmup": 0,
    }
    output, gradients = run_with_gradients(*make_batch(), **ends)
    assert output.loss.isfinite() and output.kept == 0 and all(gradient.isfinite().all() for gradient in gradients)


def test_the_router_z_loss_is_the_mean_square_of_the_log_normaliser():
    logits = torch.tensor([[[0.0, math.log(3)]], [[2.0, -torch.inf]]], dtype=torch.float64)
    assert router_z_loss(logits).item() == pytest.approx((math.log(4) ** 2 + 4) / 2)
    plain, batch = run(*make_batch()).loss, make_batch()
    with_z = Moon2Loss(z_loss_weight=0.5)(*batch, OBJECTIVES, torch.tensor(1.0), 0.5, torch.tensor(3.0)).loss
    assert (with_z - plain).item() == pytest.approx(1.5)


def test_a_power_of_phi_takes_more_weight_from_what_is_distrusted():
    query, products, _ = make_batch()
    options = dict(threshold=0.6, sharpness=10.0, margin=0.1)
    own = (query.own, products.positive.own, products.negative.own)
    phi, plain = dynamic_filter(*own, **options)
    same, strong = dynamic_filter(*own, **options, power=4.0)
    expected = torch.where(phi >= 0.6, torch.ones_like(phi), phi**4)
    torch.testing.assert_close(strong, expected / expected.mean())
    assert torch.equal(phi, same) and 0 < (phi < 0.6).sum() < len(phi)
    assert (strong / strong.max())[phi < 0.6].max() < (plain / plain.max())[phi < 0.6].max()
