"""Names of weights: a bijection between a checkpoint's tensors and ours.

A table maps the path of each of our weights (``"block2/expand/kernel"``) to the name
of one tensor of the checkpoint. `matching` reads it in one direction and fails unless
every weight is filled once and every tensor is used once or is ignored by name.

Notation: ours is ``path``, theirs is ``key``.

Differs from the reference in: nothing.

Reference: the naming conventions of torchvision.
"""

Names = dict[str, str]


def conv_norm(path: str, conv: str, norm: str) -> Names:
    """Returns the five names of an unfolded `layers.ConvNorm`.

    Args:
      path: Path of the module in ours.
      conv: Prefix of the convolution in the checkpoint.
      norm: Prefix of the batch norm in the checkpoint.
    """
    return {
        f"{path}/kernel": f"{conv}.weight",
        f"{path}/scale": f"{norm}.weight",
        f"{path}/offset": f"{norm}.bias",
        f"{path}/mean": f"{norm}.running_mean",
        f"{path}/variance": f"{norm}.running_var",
    }


def dense(path: str, linear: str) -> Names:
    """Returns the two names of a `layers.Dense`.

    Args:
      path: Path of the module in ours.
      linear: Prefix of the linear layer in the checkpoint.
    """
    return {f"{path}/kernel": f"{linear}.weight", f"{path}/bias": f"{linear}.bias"}


def counters(table: Names) -> set[str]:
    """Returns the ``num_batches_tracked`` that the table's batch norms bring along."""
    suffix = ".running_mean"
    return {
        key.removesuffix(suffix) + ".num_batches_tracked"
        for key in table.values()
        if key.endswith(suffix)
    }
