"""K-MLE on a mesh of devices: every device holds a share of samples and components.

A mixture of ``k`` components is about as large as the samples that it was fitted to, so
both are spread: each device keeps ``n / p`` samples and owns about ``k / p`` of the
components, as a mixture of experts does. Both steps are a ring. In the E-step the
components go round: a device assigns its own samples to the best of every share that
passes. In the M-step the samples go round: a device keeps those of its own components,
in their order, and fits what `gladjax.estimation` would fit. No device ever holds more
than its share and the one that is passing, and the labels are those of one device.

Components are dealt to devices anew at every step so that all have about the same
number of samples; only the split (one small integer per component) and the labels are
known to the host, or to every host where `jax.distributed` joins several.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``p`` devices, ``c`` samples
that a device has room for in the M-step, ``j`` components that it owns.

Differs from the reference in: nothing; the paper runs on one device.

Example:
  >>> import jax, numpy as np
  >>> from gladjax import sharding
  >>> mesh = jax.make_mesh((jax.device_count(),), ("samples",))
  >>> centres = np.array([[0.0, 0.0], [9.0, 9.0]], np.float32)
  >>> noise = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
  >>> samples = centres[np.arange(80) % 2] + noise
  >>> spread, valid = sharding.place(samples, mesh=mesh)
  >>> fitted, info = sharding.fit(
  ...     jax.random.key(0), spread, valid=valid, mesh=mesh, num_components=2
  ... )
  >>> info.labels[:80].reshape(40, 2).std(axis=0).tolist()
  [0.0, 0.0]
"""

from gladjax.sharding.fitting import fit as fit
from gladjax.sharding.placing import deal as deal
from gladjax.sharding.placing import gather as gather
from gladjax.sharding.placing import place as place
from gladjax.sharding.ring import Programs as Programs

__all__ = ["Programs", "deal", "fit", "gather", "place"]
