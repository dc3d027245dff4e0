"""The command ``gladjax export``: a model as one program, without gladjax."""

from pathlib import Path
from typing import Any

import click

from gladjax import export as exporting
from gladjax import files, io, outputs
from gladjax.cli import options, sizing
from gladjax.cli.saying import say

EPILOG = """\b
Examples:
  gladjax export model.safetensors --format stablehlo --out model.stablehlo
  gladjax export model.safetensors --format onnx --out model.onnx

\b
A StableHLO file (pip install "gladjax[stablehlo]" to write it) is run by JAX and
flatbuffers alone, on a CPU, GPU or TPU:
  program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
  answer = jax.jit(program.call)(image)  # uint8, (height, width, 3), RGB

An ONNX file (pip install "gladjax[onnx]" to write it; models that align cannot be) has
one input, image, and is run by onnxruntime. Models with tiles are for gladjax alone.

The answer has score, heat_map and, if the model is calibrated, p_value and
is_anomalous."""

FORMATS = {
    "stablehlo": (exporting.stablehlo, outputs.STABLEHLO),
    "onnx": (exporting.onnx, outputs.ONNX),
}


@click.command(epilog=EPILOG)
@click.argument("model", type=options.EXISTING)
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), required=True, help="Which."
)
@options.out(type=options.OUTPUT, required=True, help="The new file.")
@sizing.size("Size of the images; any by default.", least=1)
@options.calibrated_rate
@options.weights_file
@options.force
def export(model: Path, form: str, **chosen: Any) -> None:  # noqa: ANN401
    """Write a MODEL as one program, from the pixels of an image to its score.

    It holds the network, the resizing, the alignment and the threshold, and scores as
    `gladjax score` does.
    """
    convert, kind = FORMATS[form]
    outputs.check(chosen["out"], kind, force=chosen["force"])
    description = io.describe(model)
    network = options.saved_network(description.backbone, chosen["checkpoint"])
    fitted = io.load(model, backbone=network)
    rate = chosen["rate"] or description.false_positive_rate or 0.05
    program = convert(fitted, shape=chosen["image_size"], rate=rate)
    with files.atomic(chosen["out"]) as file:
        file.write(program)
    say(f"{chosen['out']}: {len(program) / 1e6:.1f} MB")
