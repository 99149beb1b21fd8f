"""An image-editing pipeline of the diffusers package on this machine."""

import inspect
from functools import cached_property

from PIL import Image

from .editors import EditError, EditorUnavailable, checked_edit, prompts_version
from .optional import optional_package

# Latent models halve a picture up to six times.
MULTIPLE = 64


class DiffusersEditor:
    """Any pipeline that takes a picture and a prompt (InstructPix2Pix, Qwen-Image-Edit, FLUX Kontext ...).

    The same picture, prompt and seed give the same answer on the same machine.

    Args:
        model: id on the Hub or folder.
        revision: commit or tag on the Hub, "" for the newest.
        options: further arguments of the pipeline's call, such as `{"num_inference_steps": 20, "guidance_scale": 7}`.
        side: longest side in pixels at which the pipeline works.
        device: where it runs, as in torch.
        dtype: name of the weights' type in torch.
    """

    def __init__(
        self,
        model: str,
        revision: str = "",
        options: dict[str, object] | None = None,
        side: int = 512,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        optional_package("diffusers", "An image-editing pipeline")
        self.model, self.revision, self.prompt_version = model, revision, prompts_version()
        self.options, self.side, self.device, self.dtype = options or {}, side, device, dtype

    def __getstate__(self) -> dict:
        """Without the weights, which another process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_pipeline"}

    def __call__(self, image: Image.Image, prompt: str, seed: int) -> Image.Image:
        """See `ImageEditor`."""
        import torch

        scale = self.side / max(image.size)
        size = [max(MULTIPLE, round(length * scale / MULTIPLE) * MULTIPLE) for length in image.size]
        generator = torch.Generator("cpu").manual_seed(seed)
        answer = self._pipeline(
            prompt=prompt, image=image.resize(size, Image.Resampling.LANCZOS), generator=generator, **self.options
        )
        if any(getattr(answer, "nsfw_content_detected", None) or ()):
            raise EditError("the pipeline's safety checker withheld the answer")
        # A pipeline works in steps of MULTIPLE; the picture gets its shape back.
        shape = (round(image.width * scale), round(image.height * scale))
        return checked_edit(answer.images[0].resize(shape, Image.Resampling.LANCZOS))

    @cached_property
    def _pipeline(self):
        import torch
        from diffusers import DiffusionPipeline

        try:
            pipeline = DiffusionPipeline.from_pretrained(
                self.model, revision=self.revision or None, torch_dtype=getattr(torch, self.dtype), use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise EditorUnavailable(f"{self.model} cannot be loaded as a diffusers pipeline: {error}") from error
        accepted = inspect.signature(pipeline.__call__).parameters
        if missing := [name for name in ("image", "prompt", *self.options) if name not in accepted]:
            raise EditorUnavailable(
                f"The pipeline {type(pipeline).__name__} of {self.model} takes no {', '.join(missing)}: "
                f"an editing pipeline takes a picture and a prompt."
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)
