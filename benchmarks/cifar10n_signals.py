"""Which signal finds people's labelling errors: the network's answer, its embeddings, or both?

    python benchmarks/cifar10n_signals.py shared/data/cifar10n/cifar10n_15k.npz [--labels aggregate]
    python benchmarks/cifar10n_signals.py --out-of-fold ANSWERS.npz

15,000 CIFAR-10 photographs with labels that people gave, whose true labels are known. A small network is
trained on the noisy labels of all folds but one and answers the photographs of that one; its last layer but
one is their embedding. Each signal ranks the labels; the table is average precision against the true labels.
With `--out-of-fold` the answers are those that benchmarks/cifar10n_loop.py saved, and nothing is trained.
Embeddings of different folds come from different networks, so neighbours are sought within a fold.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from ddeval.audit import label_quality
from ddeval.audit.folds import fold_of
from ddeval.audit.neighbours import neighbour_probs, neighbours, outlier_scores, own_class_quality
from ddeval.audit.ranking import own, recalibrated

NOISE = {"aggregate": "aggre_label", "random1": "random_label1"}
BATCH = 128


def trained_out_of_fold(images, labels, fold, *, epochs, seed):
    """Probabilities and embeddings of each image from a network that never saw its fold's labels."""
    import torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    pixels = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std((0, 2, 3), keepdim=True)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(labels)
    probs, embeddings = np.empty((len(labels), 10)), np.empty((len(labels), 128), dtype=np.float32)
    for k in range(int(fold.max()) + 1):
        train, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        torch.manual_seed(seed * 100 + k)
        body, head = _network(torch)
        _fit(torch, body, head, pixels, target, train, epochs=epochs)
        with torch.inference_mode():
            for rows in np.array_split(judged, max(1, len(judged) // 500)):
                features = body(pixels[rows]) + body(pixels[rows].flip(3))  # both ways round
                embeddings[rows] = features.numpy()
                probs[rows] = torch.softmax(head(features / 2).double(), 1).numpy()
        print(
            f"fold {k}: {np.mean(probs[judged].argmax(1) == labels[judged]):.3f} right on the given labels",
            flush=True,
        )
    return probs, embeddings


def _network(torch):
    """Four convolutions to 128 numbers, and a linear head: minutes on two CPU cores."""
    nn, layers, width = torch.nn, [], 3
    for out, edge, stride, pools in (
        (32, 4, 2, False),
        (48, 3, 1, True),
        (96, 3, 1, True),
        (128, 3, 1, False),
    ):
        convolution = nn.Conv2d(width, out, edge, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if pools else []
        width = out
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = body.to(memory_format=torch.channels_last)
    return body, nn.Linear(128, 10)


def _fit(torch, body, head, pixels, target, train, *, epochs):
    parameters = [*body.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    n_steps = epochs * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=n_steps)
    rng = torch.Generator().manual_seed(int(train[0]))
    body.train()
    for _ in range(epochs):
        order = torch.from_numpy(train)[torch.randperm(len(train), generator=rng)]
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            batch = _shifted(torch, pixels[rows], rng)
            loss = torch.nn.functional.cross_entropy(head(body(batch)), target[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    body.eval()


def _shifted(torch, batch, rng):
    """The batch, half of it mirrored, moved by up to three pixels."""
    mirrored = torch.rand(len(batch), generator=rng) < 0.5
    batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
    across, down = torch.randint(0, 7, (2,), generator=rng).tolist()
    return torch.nn.functional.pad(batch, (3, 3, 3, 3))[:, :, down : down + 32, across : across + 32]


def signals(labels, probs, embeddings, fold):
    """Each signal of each image, low = suspicious."""
    rows = np.arange(len(labels))
    others = probs.copy()
    others[rows, labels] = 0
    likely = recalibrated(labels, probs)
    found = {
        "self-confidence": own(probs, labels),
        "margin": own(probs, labels) - others.max(1),
        "entropy, sure = suspicious": -(probs * np.log(np.maximum(probs, 1e-15))).sum(1),
        "recalibrated confidence": own(likely, labels),
        "label_quality without embeddings": label_quality(labels, probs),
    }
    if embeddings is None:
        return found
    shares, own_class, unlike = np.empty_like(probs), np.empty(len(labels)), np.empty(len(labels))
    for k in np.unique(fold):
        part = np.flatnonzero(fold == k)
        near = neighbours(embeddings[part])
        shares[part] = neighbour_probs(labels[part], near, n_classes=probs.shape[1])
        own_class[part] = own_class_quality(labels[part], embeddings[part])
        unlike[part] = -outlier_scores(near)
    apart = np.zeros((len(labels), embeddings.shape[1] * len(np.unique(fold))), dtype=np.float32)
    width = embeddings.shape[1]
    for place, k in enumerate(np.unique(fold)):  # a block of columns a fold: no neighbour in another one
        part = fold == k
        apart[part, place * width : (place + 1) * width] = embeddings[part]
    return found | {
        "neighbours' labels": own(shares, labels),
        "own class against others": own_class,
        "unlike all others": unlike,
        "label_quality with embeddings": label_quality(labels, probs, features=apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--labels", choices=NOISE, default="aggregate")
    parser.add_argument("--out-of-fold", type=Path, help="npz of benchmarks/cifar10n_loop.py --save")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    result = {}
    for name, (labels, truth, probs, embeddings, fold) in _cases(options).items():
        is_wrong = labels != truth
        right = np.mean(probs.argmax(1) == truth)
        print(f"\n{name}: {len(labels):,} labels, {is_wrong.mean():.1%} wrong; network right on {right:.1%}")
        result[name] = {}
        for signal, quality in signals(labels, probs, embeddings, fold).items():
            result[name][signal] = float(average_precision_score(is_wrong, -np.nan_to_num(quality, nan=1.0)))
            print(f"  {signal:34}{result[name][signal]:.4f}")
    print(f"\n{time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _cases(options):
    """Labels, truth, probabilities, embeddings or None, and fold, by name."""
    if options.out_of_fold:
        held = np.load(options.out_of_fold)
        names = [key.removesuffix("-probs") for key in held.files if key.endswith("-probs")]
        return {name: _saved(held, name) for name in names}
    held = np.load(options.data)
    n = options.limit or len(held["images"])
    labels, truth = (held[k][:n].astype(np.int64) for k in (NOISE[options.labels], "clean_label"))
    fold = fold_of(labels, n_folds=options.folds, rng=np.random.default_rng(options.seed))
    probs, embeddings = trained_out_of_fold(
        held["images"][:n], labels, fold, epochs=options.epochs, seed=options.seed
    )
    if options.save:
        np.savez_compressed(options.save, probs=probs, embeddings=embeddings, fold=fold)
    return {f"{options.labels}, {options.epochs} epochs": (labels, truth, probs, embeddings, fold)}


def _saved(held, name):
    labels, truth, probs = (held[f"{name}-{key}"] for key in ("given", "clean", "probs"))
    embeddings = held[f"{name}-embeddings"] if f"{name}-embeddings" in held.files else None
    fold = held[f"{name}-fold"] if f"{name}-fold" in held.files else np.zeros(len(labels), dtype=np.int64)
    return labels.astype(np.int64), truth.astype(np.int64), probs.astype(np.float64), embeddings, fold


if __name__ == "__main__":
    main()
