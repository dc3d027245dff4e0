"""Makes anomalib.npz: scores of anomalib's PaDiM and PatchCore on synthetic features.

Run in an environment of its own, never in the project's:

    python -m venv anomalib-env
    anomalib-env/bin/pip install torch==2.13.0 numpy scikit-learn tqdm packaging
    anomalib-env/bin/pip install --no-deps anomalib==2.7.0 kornia==0.9.0 kornia_rs
    anomalib-env/bin/python generate_anomalib.py

Only the mathematics of the two models is exercised, so nothing that reads images or
trains is needed: the packages on the way to the two `torch_model` modules are entered
without running their `__init__`, names that they take from there are provided from the
modules that define them, and the feature extractor is replaced by one that hands back
the features at hand. The classes that compute (PadimModel, PatchcoreModel, both
AnomalyMapGenerators, MultiVariateGaussian, GaussianBlur2d, KCenterGreedy,
SparseRandomProjection) are anomalib's own.

Made with the versions stored in the file under `versions`, seed 0.
"""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import pathlib
import sys
import types

import numpy as np
import torch

SEED = 0
IMAGE = (64, 48)
NEEDED = ("anomalib", "torch", "kornia", "scikit-learn", "numpy")
LAYERS = {"layer1": (16, 12, 6), "layer2": (8, 6, 8), "layer3": (4, 3, 12)}
TRAIN, TEST, DIMS, CORESET = 24, 6, 10, 0.1


def enter(name):
    """Registers a package of anomalib without running its __init__."""
    root = pathlib.Path(importlib.util.find_spec("anomalib").origin).parent
    module = types.ModuleType(name)
    module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    return module


def load():
    """Returns anomalib's PadimModel and PatchcoreModel classes and its sampler."""
    enter("anomalib.models")
    components = enter("anomalib.models.components")
    for part in ("stats", "filters", "sampling", "dimensionality_reduction", "base"):
        enter(f"anomalib.models.components.{part}")

    def provide(package, module, *names):
        found = importlib.import_module(module)
        for name in names:
            setattr(sys.modules[package], name, getattr(found, name))
            setattr(components, name, getattr(found, name))

    base = "anomalib.models.components"
    provide(f"{base}.base", f"{base}.base.dynamic_buffer", "DynamicBufferMixin")
    provide(
        f"{base}.dimensionality_reduction",
        f"{base}.dimensionality_reduction.random_projection",
        "SparseRandomProjection",
    )
    provide(
        f"{base}.stats", f"{base}.stats.multi_variate_gaussian", "MultiVariateGaussian"
    )
    provide(f"{base}.filters", f"{base}.filters.blur", "GaussianBlur2d")
    provide(f"{base}.sampling", f"{base}.sampling.k_center_greedy", "KCenterGreedy")
    components.TimmFeatureExtractor = Features
    extractors = types.ModuleType(f"{base}.feature_extractors")
    extractors.dryrun_find_featuremap_dims = None  # Reads a backbone; not called.
    sys.modules[extractors.__name__] = extractors
    data = types.ModuleType("anomalib.data")
    data.InferenceBatch = types.SimpleNamespace
    sys.modules["anomalib.data"] = data
    utils = types.ModuleType("anomalib.utils")
    utils.deprecate = lambda *args, **kwargs: lambda function: function
    sys.modules["anomalib.utils"] = utils
    for name in ("image", "image.padim", "image.patchcore"):
        enter(f"anomalib.models.{name}")
    padim = importlib.import_module("anomalib.models.image.padim.torch_model")
    patchcore = importlib.import_module("anomalib.models.image.patchcore.torch_model")
    return padim.PadimModel, patchcore.PatchcoreModel, components.KCenterGreedy


class Features(torch.nn.Module):
    """Stands in for the backbone: hands back the features it was given."""

    def __init__(self, backbone, layers, pre_trained):
        super().__init__()
        self.out_dims = [LAYERS[name][2] for name in layers]
        self.layers = layers
        self.now = {}

    def forward(self, images):
        return {name: self.now[name] for name in self.layers}


def make_features():
    """Returns training and test features, in float16 so that the file is small."""
    rng = np.random.default_rng(SEED)
    train, test = {}, {}
    for name, (h, w, d) in LAYERS.items():
        place = rng.normal(size=(h, w, d))
        mix = rng.normal(size=(d, d)) / d**0.5
        for n, found in ((TRAIN, train), (TEST, test)):
            found[name] = place + rng.normal(size=(n, h, w, d)) @ mix
        h0, w0 = h // 4, w // 3
        test[name][3:, h0 : 2 * h0, w0 : 2 * w0] += 2.5  # Three of six are anomalous.
        train[name] = train[name].astype(np.float16)
        test[name] = test[name].astype(np.float16)
    return train, test


def as_torch(features):
    """Turns NHWC arrays into NCHW tensors in float32."""
    return {
        name: torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2).contiguous()
        for name, x in features.items()
    }


def main():
    torch.manual_seed(SEED)
    padim_class, patchcore_class, sampler_class = load()
    train, test = make_features()
    names = list(LAYERS)
    out = {f"train_{k}": v for k, v in train.items()}
    out |= {f"test_{k}": v for k, v in test.items()}
    blank = torch.zeros(1, 3, *IMAGE)

    options = {"backbone": "none", "pre_trained": False}
    padim = padim_class(layers=names, n_features=DIMS, **options)
    padim.feature_extractor.now = as_torch(train)
    padim.train()
    padim(blank)
    padim.fit()
    padim.eval()
    padim.feature_extractor.now = as_torch(test)
    result = padim(blank)
    out["padim_dims"] = padim.idx.numpy()
    out["padim_map"] = result.anomaly_map[:, 0].numpy()
    out["padim_score"] = result.pred_score.flatten().numpy()

    patchcore = patchcore_class(layers=names[1:], num_neighbors=9, **options)
    patchcore.feature_extractor.now = as_torch(train)
    patchcore.train()
    embedding = patchcore(blank)
    coreset = sampler_class(embedding, CORESET).select_coreset_idxs()
    patchcore.memory_bank = embedding[coreset]
    patchcore.eval()
    patchcore.feature_extractor.now = as_torch(test)
    with torch.no_grad():
        result = patchcore(blank)
    # Its map repeats cells up to the image's size; the distances before that come from
    # the same calls as in its forward.
    pooled = {k: patchcore.feature_pooler(as_torch(test)[k]) for k in names[1:]}
    queries = patchcore.reshape_embedding(patchcore.generate_embedding(pooled))
    patches, _ = patchcore.nearest_neighbors(embedding=queries, n_neighbors=1)
    out["patchcore_coreset"] = np.asarray(coreset)
    out["patchcore_patches"] = patches.reshape(TEST, *LAYERS["layer2"][:2]).numpy()
    out["patchcore_score"] = result.pred_score.numpy()
    versions = {k: importlib.metadata.version(k) for k in NEEDED}
    out["versions"] = np.array([f"{k} {v}" for k, v in versions.items()])
    path = pathlib.Path(__file__).with_name("anomalib.npz")
    np.savez_compressed(path, **out)
    print(path, path.stat().st_size, list(out["versions"]))
    print(out["padim_score"], out["patchcore_score"])


if __name__ == "__main__":
    main()
