"""The networks as NNX modules, imported when one is traced.

To import Flax takes half a second, and a program that is kept (`gladjax.programs`)
needs none of it. What a network is made of and how a checkpoint names its weights is
told elsewhere: `gladjax.backbone.resnet`, `efficientnet_lite` and `vit`.

Notation: none.

Differs from the reference in: nothing.

Reference: the Flax documentation, "NNX basics".
"""
