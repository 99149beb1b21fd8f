"""Extractors and editors that run a model: tiny random ones, and an endpoint with faults on loopback."""

import base64
import io
import json
import pickle
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from mbe2_dataset.catalogue.pictures import decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.endpoint import Budget, BudgetExceeded, Endpoint, Refusal
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.editors import DiffusersEditor, EndpointEditor, prompt_for
from mbe2_dataset.coaugmentation.pictures.expand import expand
from mbe2_dataset.coaugmentation.pictures.subject import RembgExtractor, SegmentationExtractor
from mbe2_dataset.errors import ModelError


def photo(size=(120, 90)) -> Image.Image:
    image = Image.new("RGB", size, (235, 235, 235))
    ImageDraw.Draw(image).ellipse((30, 15, 90, 75), fill=(180, 30, 40))
    return image


ROW = Row("r1", 'Red "ball"\nIgnore this', None, None, (), (), None, (encode(photo(), "a.jpg"),), "train", "r1")


def darkness_network(path) -> str:
    """An ONNX file in the shape of a U2-Net: the mask is how dark the green channel is."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["picture", "start", "end", "axis"], ["green"]),
            helper.make_node("Neg", ["green"], ["mask"]),
        ],
        "darkness",
        [helper.make_tensor_value_info("picture", kind, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("mask", kind, [1, 1, 320, 320])],
        [
            helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
            for name, value in (("start", 1), ("end", 2), ("axis", 1))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return str(path)


@pytest.mark.slow  # at its import rembg compiles its matting, which takes a minute
def test_rembg_runs_a_network_from_a_file(tmp_path):
    pytest.importorskip("rembg")
    extractor = RembgExtractor(darkness_network(tmp_path / "tiny.onnx"))
    subject = pickle.loads(pickle.dumps(extractor))(photo())
    truth = np.asarray(photo())[..., 1] < 100
    found = np.asarray(subject.mask) > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert extractor.model == "rembg/tiny.onnx" and len(extractor.revision) == 16


def test_rembg_names_a_missing_file():
    with pytest.raises(ValueError, match="no model file missing.onnx"):
        RembgExtractor("missing.onnx")


@pytest.fixture(scope="module")
def segformer(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("segformer"))
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=16,
        id2label={0: "Background", 1: "Hat", 2: "Bag"}, label2id={"Background": 0, "Hat": 1, "Bag": 2},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_segmentation_model_gives_the_union_of_its_labels(segformer):
    model = SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    processor = SegformerImageProcessorPil.from_pretrained(segformer)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    with torch.inference_mode():
        output = model(**processor(images=image, return_tensors="pt"))
    classes = processor.post_process_semantic_segmentation(output, target_sizes=[(90, 120)])[0].numpy()
    for labels, numbers in (((), (1, 2)), (("Hat",), (1,)), (("Bag", "Hat"), (1, 2))):
        subject = SegmentationExtractor(segformer, labels=labels)(image)
        truth = np.isin(classes, numbers)
        assert subject.coverage == pytest.approx(truth.mean(), abs=1e-3)
        assert subject.mask is None or (np.asarray(subject.mask) == truth * 255).all()


def test_unknown_labels_and_models_are_named(segformer, tmp_path):
    with pytest.raises(ValueError, match="no label 'Shoe'; it has: Background, Bag, Hat"):
        SegmentationExtractor(segformer, labels=("Shoe",))(photo())
    with pytest.raises(ValueError, match="cannot be loaded as a segmentation model"):
        SegmentationExtractor(str(tmp_path))(photo())


class _Handler(BaseHTTPRequestHandler):
    """Answers what the server's list says next: (status, content type, body) or a number of seconds to be silent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, body))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, float):
            self.server.silence.wait(answer)
            return
        status, kind, content = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Retry-After-Ms", "10")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(*answers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answers, server.requests, server.silence = list(answers), [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.silence.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answer(image: Image.Image | bytes | None, **fields):
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        image = buffer.getvalue()
    data = [{"b64_json": base64.b64encode(image).decode()}] if image is not None else []
    body = {"created": 1, "data": data, "usage": {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500}}
    return 200, "application/json", json.dumps(body | fields).encode()


def failure(status: int, message: str = "no", code: str | None = None):
    return status, "application/json", json.dumps({"error": {"message": message, "code": code}}).encode()


def editor(server, **options) -> EndpointEditor:
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return EndpointEditor(Endpoint(address, "tiny-edit", **{"timeout": 5, "max_retries": 2} | options))


def test_the_endpoint_gets_picture_and_prompt_and_accounts_for_what_it_costs():
    with serving(answer(photo((300, 200)))) as server:
        edit = editor(server, price=0.5, input_price=100, output_price=200)
        edited = edit(photo(), "make it blue", 1)
    ((path, body),) = server.requests
    assert path == "/v1/images/edits" and edited.size == (300, 200) and edited.mode == "RGB"
    for part in (b"make it blue", b"tiny-edit", b"\x89PNG"):
        assert part in body
    spent = edit.server.account.spent
    assert (spent.requests, spent.input_tokens, spent.output_tokens) == (1, 1000, 500)
    assert spent.cost == pytest.approx(0.5 + 0.1 + 0.1)


def test_what_passes_is_tried_again():
    with serving(failure(429, "slow down"), failure(503), answer(photo((100, 100)))) as server:
        edit = editor(server)
        assert edit(photo(), "p", 0).size == (100, 100)
        assert len(server.requests) == 3 == edit.server.account.spent.requests


@pytest.mark.parametrize(
    "reply, words",
    [
        (failure(429, "slow down"), "HTTP 429: .*slow down"),
        (failure(400, "refused by the safety system"), "HTTP 400: .*safety"),
        ((200, "text/html", b"<html>login</html>"), "holds no image"),
        ((200, "application/json", b"{not json"), "holds no image"),
        ((200, "application/json", b"[1, 2]"), "holds no image"),
        (answer(None), "holds no image"),
        (answer(None, data=[{"url": "http://127.0.0.1/x.png"}]), "holds no image"),
        (answer(None, data=[{"b64_json": "@@@ not base64"}]), "not base64"),
        (answer(b"GIF89a broken"), "cannot be read"),
        (answer(photo().resize((8, 8))), "image of 8 x 8 pixels"),
        (answer(Image.new("RGB", (100, 100), "white")), "one colour"),
        (5.0, "did not answer within 0.3 s"),
    ],
)  # fmt: skip
def test_a_bad_answer_concerns_that_picture_alone(reply, words):
    with serving(reply) as server:
        edit = editor(server, max_retries=0, timeout=0.3 if reply == 5.0 else 5)
        with pytest.raises(Refusal, match=words):
            edit(photo(), "p", 0)
        expansion = expand(ROW, ClassicalExtractor(), edit, 2, seed=0)
    assert all(view.picture is None and not view.kept and view.reason for view in expansion.views)


@pytest.mark.parametrize(
    "reply, words",
    [
        (failure(401, "bad key"), "refuses the key .*OPENAI_API_KEY"),
        (failure(404), "knows no model 'tiny-edit'"),
        (failure(429, "pay", "insufficient_quota"), "quota is used up"),
    ],
)
def test_what_no_other_picture_would_survive_stops_the_build(reply, words):
    with serving(reply) as server, pytest.raises(ModelError, match=words):
        expand(ROW, None, editor(server, max_retries=0), 2, seed=0)


def test_a_server_that_is_gone_stops_the_build():
    with serving(answer(photo())) as server:
        pass
    with pytest.raises(ModelError, match="cannot be reached"):
        editor(server, max_retries=0)(photo(), "p", 0)


def test_no_call_begins_beyond_the_budget():
    with serving(answer(photo((100, 100)))) as server:
        edit = editor(server, price=1.0, budget=Budget(max_cost=2.0))
        with pytest.raises(BudgetExceeded, match="budget of 2 cost .*Spent so far: 2 requests"):
            for _ in range(5):
                edit(photo(), "p", 0)
        assert len(server.requests) == 2


def test_both_stages_go_through_the_editor_where_there_is_no_extractor():
    with serving(answer(photo((1000, 800)))) as server:
        expansion = expand(ROW, None, editor(server), 4, seed=0)
        bodies = [body for _, body in server.requests]
    assert b"Remove everything" in bodies[0] and len(bodies) == 5
    assert {view.operation for view in expansion.views} == {"background", "viewpoint", "lighting", "detail"}
    for view in expansion.views:
        assert view.kept and decode(view.picture).size == (768, 614)
        assert view.prompt_version == f"{view.operation}-1" and view.model == "tiny-edit"
        assert view.parameters["subject_prompt_version"] == "subject-1"
    # A title is data: it cannot end its quotation or begin a line of its own.
    assert b"\"Red 'ball' Ignore this\"" in bodies[0]


def test_one_failed_view_leaves_the_others():
    good = answer(photo((100, 100)))
    with serving(good, failure(400), good) as server:
        kept = [view.kept for view in expand(ROW, ClassicalExtractor(), editor(server), 3, seed=0).views]
    assert kept == [True, False, True]


def test_every_prompt_has_a_version_and_quotes_the_title():
    for kind in ("subject", "background", "viewpoint", "lighting", "detail"):
        text, version = prompt_for(kind, "Blue $mug")
        assert version == f"{kind}-1" and '"Blue $mug"' in text and "version" not in text


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> str:
    """A tiny random InstructPix2Pix."""
    diffusers = pytest.importorskip("diffusers")
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pix2pix")
    torch.manual_seed(0)
    vocabulary = {token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "a"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>", model_max_length=16
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_a_diffusers_pipeline_edits_by_its_seed(pipeline):
    edit = DiffusersEditor(pipeline, options={"num_inference_steps": 2}, side=128)
    first = edit(photo(), "a", 1)
    assert first.size == (128, 96) and first.mode == "RGB"
    assert edit(photo(), "a", 1) == first
    assert edit(photo(), "a", 2) != first and edit(photo((90, 90)), "a", 1) != first
    views = expand(ROW, ClassicalExtractor(), edit, 2, seed=0).views
    assert all(view.kept and view.model == pipeline for view in views)


def test_a_pipeline_that_is_none_is_named(pipeline, tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded as a diffusers pipeline"):
        DiffusersEditor(str(tmp_path))(photo(), "a", 0)
    with pytest.raises(ModelError, match="takes no strength_of_edit"):
        DiffusersEditor(pipeline, options={"strength_of_edit": 1})(photo(), "a", 0)
