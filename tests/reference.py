"""Slow, obvious versions of what ddeval computes fast: loops a reader can check against the definition."""

import math
import statistics

import numpy as np


def _units(ratings):
    """Ratings of each unit without the missing ones."""
    return [[r for r in unit if r is not None and r == r] for unit in ratings]


def krippendorff_alpha(ratings):
    """1 - observed / expected disagreement, over all ordered pairs of ratings."""
    units = [u for u in _units(ratings) if len(u) >= 2]
    pooled = [r for u in units for r in u]
    n = len(pooled)
    observed = sum(sum(a != b for a in u for b in u) / (len(u) - 1) for u in units) / n
    expected = sum(a != b for a in pooled for b in pooled) / (n * (n - 1))
    return 1 - observed / expected


def _pair_share(unit):
    pairs = [(i, j) for i in range(len(unit)) for j in range(len(unit)) if i != j]
    return sum(unit[i] == unit[j] for i, j in pairs) / len(pairs)


def fleiss_kappa(ratings):
    """(agreement - chance) / (1 - chance) with the pooled share of each category as chance."""
    units = [u for u in _units(ratings) if len(u) >= 2]
    pooled = [r for u in units for r in u]
    agreement = sum(_pair_share(u) for u in units) / len(units)
    chance = sum((pooled.count(c) / len(pooled)) ** 2 for c in set(pooled))
    return (agreement - chance) / (1 - chance)


def gwet_ac1(ratings):
    """As Fleiss, with chance = sum of p (1 - p) / (K - 1), p the mean share of a category over units."""
    read = [u for u in _units(ratings) if u]
    units = [u for u in read if len(u) >= 2]
    categories = {r for u in read for r in u}
    agreement = sum(_pair_share(u) for u in units) / len(units)
    shares = [sum(u.count(c) / len(u) for u in read) / len(read) for c in categories]
    chance = sum(p * (1 - p) for p in shares) / (len(categories) - 1)
    return (agreement - chance) / (1 - chance)


def encode(answers, schema):
    """Questionnaire of `schema` cell by cell, what is not understood as unknown: strings, splits and ifs."""
    rows = []
    for _, row in answers.iterrows():
        out = []
        for f in schema.fields:
            cell = row[f"q.{f.name}"]
            text = "" if cell is None or cell != cell else str(cell).strip().lower()
            values = None
            if text and text not in f.unknown:
                if f.kind == "yes_no":
                    values = {"yes": [1.0], "no": [0.0]}.get(text)
                elif f.kind == "number":
                    number, _, unit = text.partition(" ")
                    if unit or f.bare_numbers:
                        value = float(number) * (f.units[unit.rstrip("s")] if unit else 1)
                        if f.low <= value <= f.high:
                            values = [(value - f.low) / (f.high - f.low)]
                else:
                    said = [part.strip() for part in text.split(";")] if f.kind != "single" else [text]
                    regions = [f.within[part] for part in said if part in f.within]
                    if f.none and said == [f.none]:
                        values = [0.0] * len(f.answers)
                    elif all(part in f.answers for part in said):
                        values = [1.0 if a in said + regions else 0.0 for a in f.answers]
            n_columns = len(f.answers) or 1
            out += [0.0] * n_columns + [1.0] if values is None else [*values, 0.0]
        rows.append(out)
    return rows


# Discrimination


def predicted_class(label, probs):
    """The most probable class; where the label shares the top, the first other class that does."""
    top = [k for k in range(len(probs)) if probs[k] == max(probs)]
    others = [k for k in top if k != label]
    return others[0] if label in top and others else top[0]


def top_k_accuracy(labels, pred_probs, k):
    """A label is found where fewer than k other classes are at least as probable."""
    hits = []
    for label, probs in zip(labels, pred_probs, strict=True):
        rivals = [j for j in range(len(probs)) if j != label and probs[j] >= probs[label]]
        hits.append(len(rivals) < k)
    return sum(hits) / len(hits)


def class_counts(labels, pred_probs, k):
    """True positives, false positives, false negatives and true negatives of class k."""
    tp = fp = fn = tn = 0
    for label, probs in zip(labels, pred_probs, strict=True):
        said, is_class = predicted_class(label, probs) == k, label == k
        tp, fp, fn, tn = tp + (said and is_class), fp + (said > is_class), fn + (said < is_class), tn
        tn += not said and not is_class
    return tp, fp, fn, tn


def balanced_accuracy(labels, pred_probs):
    sensitivities = []
    for k in sorted(set(labels.tolist())):
        tp, _, fn, _ = class_counts(labels, pred_probs, k)
        sensitivities.append(tp / (tp + fn))
    return sum(sensitivities) / len(sensitivities)


def macro_f1(labels, pred_probs):
    scores = []
    for k in range(pred_probs.shape[1]):
        tp, fp, fn, _ = class_counts(labels, pred_probs, k)
        if tp + fp + fn:
            scores.append(2 * tp / (2 * tp + fp + fn))
    return sum(scores) / len(scores)


def weighted_f1(labels, pred_probs):
    total = 0.0
    for k in sorted(set(labels.tolist())):
        tp, fp, fn, _ = class_counts(labels, pred_probs, k)
        total += (tp + fn) * 2 * tp / (2 * tp + fp + fn)
    return total / len(labels)


def mcc(labels, pred_probs):
    """Correlation of the two one-hot codings: their covariance over the roots of their variances."""
    predicted = [predicted_class(y, p) for y, p in zip(labels, pred_probs, strict=True)]
    given, said = np.eye(pred_probs.shape[1])[labels], np.eye(pred_probs.shape[1])[predicted]
    given, said = given - given.mean(axis=0), said - said.mean(axis=0)
    return (given * said).sum() / math.sqrt((given**2).sum() * (said**2).sum())


def cohen_kappa(labels, pred_probs):
    predicted = np.array([predicted_class(y, p) for y, p in zip(labels, pred_probs, strict=True)])
    agreed = float((labels == predicted).mean())
    by_chance = sum(
        float((labels == k).mean()) * float((predicted == k).mean()) for k in range(pred_probs.shape[1])
    )
    return (agreed - by_chance) / (1 - by_chance)


def auroc(is_positive, scores):
    """Share of (positive, negative) pairs in the right order; a tie is half a pair."""
    won = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[is_positive].tolist()
        for n in scores[~is_positive].tolist()
    ]
    return sum(won) / len(won)


def average_precision(is_positive, scores):
    """Walk the distinct scores downwards: precision there times the recall gained since the last."""
    total, found_before = 0.0, 0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        passed = scores >= threshold
        found = int((passed & is_positive).sum())
        total += (found - found_before) / int(is_positive.sum()) * found / int(passed.sum())
        found_before = found
    return total


def auroc_macro(labels, pred_probs):
    areas = [auroc(labels == k, pred_probs[:, k]) for k in sorted(set(labels.tolist()))]
    return sum(areas) / len(areas)


def auroc_weighted(labels, pred_probs):
    return sum(
        float((labels == k).mean()) * auroc(labels == k, pred_probs[:, k])
        for k in sorted(set(labels.tolist()))
    )


def average_precision_macro(labels, pred_probs):
    areas = [average_precision(labels == k, pred_probs[:, k]) for k in sorted(set(labels.tolist()))]
    return sum(areas) / len(areas)


# Resampling


def bootstrap_replicates(statistic, *arrays, groups, rng, n_resamples):
    """Take the rows of each drawn group, one group after the other, and work the statistic out on them."""
    names = sorted(set(groups.tolist()))
    replicates = []
    for _ in range(n_resamples):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(groups == names[g]) for g in drawn])
        replicates.append(statistic(*(a[rows] for a in arrays)))
    return np.array(replicates)


# Calibration


def top_confidence(labels, pred_probs):
    """Highest probability of each image, and whether its label alone has it."""
    confidence = [max(probs) for probs in pred_probs]
    correct = [
        predicted_class(label, probs) == label for label, probs in zip(labels, pred_probs, strict=True)
    ]
    return confidence, correct


def bin_gaps(confidence, outcomes, n_bins):
    """Share of the images and |mean outcome - mean confidence| of each right-closed bin that has any."""
    gaps = []
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        rows = [
            i
            for i, c in enumerate(confidence)
            if low < c <= high or (b == 0 and c == 0) or (b == n_bins - 1 and c > 1)
        ]
        if rows:
            outcome = sum(outcomes[i] for i in rows) / len(rows)
            stated = sum(confidence[i] for i in rows) / len(rows)
            gaps.append((len(rows) / len(confidence), abs(outcome - stated)))
    return gaps


def ece(labels, pred_probs, n_bins=15):
    return sum(share * gap for share, gap in bin_gaps(*top_confidence(labels, pred_probs), n_bins))


def mce(labels, pred_probs, n_bins=15):
    return max(gap for _, gap in bin_gaps(*top_confidence(labels, pred_probs), n_bins))


def classwise_ece(labels, pred_probs, n_bins=15):
    n_classes = pred_probs.shape[1]
    errors = [
        sum(share * gap for share, gap in bin_gaps(pred_probs[:, k], labels == k, n_bins))
        for k in range(n_classes)
    ]
    return sum(errors) / n_classes


def ece_equal_mass(labels, pred_probs, n_bins=15):
    """Every image is cut into n_bins equal crumbs, so that each bin gets the same number of crumbs.

    Images of one confidence are crumbled together: each crumb of theirs has their mean residual.
    """
    confidence, correct = top_confidence(labels, pred_probs)
    crumbs = []
    for level in sorted(set(confidence)):
        residuals = [right - c for c, right in zip(confidence, correct, strict=True) if c == level]
        crumbs += [sum(residuals) / len(residuals)] * (len(residuals) * n_bins)
    size = len(confidence)
    parts = [crumbs[b * size : (b + 1) * size] for b in range(n_bins)]
    return sum(abs(sum(part)) for part in parts) / len(crumbs)


def nll(labels, pred_probs):
    losses = [-math.log(max(probs[y], 1e-15)) for y, probs in zip(labels, pred_probs, strict=True)]
    return sum(losses) / len(losses)


def brier_score(labels, pred_probs):
    losses = [
        sum((p - (k == y)) ** 2 for k, p in enumerate(probs))
        for y, probs in zip(labels, pred_probs, strict=True)
    ]
    return sum(losses) / len(losses)


def calibration_gap(labels, pred_probs):
    confidence, correct = top_confidence(labels, pred_probs)
    return sum(confidence) / len(confidence) - sum(correct) / len(correct)


def smooth_ece_at(confidence, residuals, width, n_points=4000):
    """Integral of |smeared residuals|: every Gaussian has mirror images left of 0 and right of 1."""
    t = (np.arange(n_points) + 0.5) / n_points
    density = np.zeros(n_points)
    for c, r in zip(confidence, residuals, strict=True):
        for mirror in range(-3, 4):
            for centre in (2 * mirror + c, 2 * mirror - c):
                if -8 * width <= centre <= 1 + 8 * width:
                    density += r * np.exp(-0.5 * ((t - centre) / width) ** 2)
    density /= width * math.sqrt(2 * math.pi) * len(confidence)
    return np.abs(density).mean()


def smooth_ece(labels, pred_probs):
    """The width that equals the error it gives, by halving the interval."""
    confidence, correct = top_confidence(labels, pred_probs)
    residuals = [right - c for c, right in zip(confidence, correct, strict=True)]
    low, high = 1e-6, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        if smooth_ece_at(confidence, residuals, middle) > middle:
            low = middle
        else:
            high = middle
    return low


# Selective prediction


def risk_coverage(correct, confidence):
    """(threshold, coverage, risk, generalized risk) of every threshold, surest first."""
    points = []
    for threshold in sorted(set(confidence), reverse=True):
        answered = [right for right, c in zip(correct, confidence, strict=True) if c >= threshold]
        n_wrong = answered.count(False)
        coverage = len(answered) / len(correct)
        points.append((threshold, coverage, n_wrong / len(answered), n_wrong / len(correct)))
    return points


def aurc(correct, confidence):
    points = risk_coverage(correct, confidence)
    area, coverage_before, risk_before = 0.0, 0.0, points[0][2]
    for _, coverage, risk, _ in points:
        area += (coverage - coverage_before) * (risk + risk_before) / 2
        coverage_before, risk_before = coverage, risk
    return area


def augrc(correct, confidence):
    area, coverage_before, risk_before = 0.0, 0.0, 0.0
    for _, coverage, _, risk in risk_coverage(correct, confidence):
        area += (coverage - coverage_before) * (risk + risk_before) / 2
        coverage_before, risk_before = coverage, risk
    return area


def failure_auroc(correct, confidence):
    return auroc(np.array(correct), np.array(confidence))


def coverage_at_risk(correct, confidence, risk):
    kept = [coverage for _, coverage, r, _ in risk_coverage(correct, confidence) if r <= risk]
    return max(kept, default=float("nan"))


# Conformal sets


def lac_set(labels, pred_probs, probs, coverage):
    """Classes of one image whose probability as many calibration labels reach as `coverage` asks."""
    scores = sorted(1 - p[y] for y, p in zip(labels, pred_probs, strict=True))
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    if rank > len(scores):
        return set(range(len(probs)))
    return {k for k, p in enumerate(probs) if 1 - p <= scores[rank - 1]}


# Decisions


def sensitivity_at_specificity(is_malignant, score, specificity):
    """Best sensitivity over all thresholds (one above every score too) that keep the specificity."""
    malignant = [s for s, m in zip(score, is_malignant, strict=True) if m]
    benign = [s for s, m in zip(score, is_malignant, strict=True) if not m]
    best = 0.0
    for threshold in [*sorted(set(score)), math.inf]:
        if sum(s < threshold for s in benign) / len(benign) >= specificity - 1e-12:
            best = max(best, sum(s >= threshold for s in malignant) / len(malignant))
    return best


def net_benefit(is_malignant, score, threshold):
    n_found = sum(s >= threshold for s, m in zip(score, is_malignant, strict=True) if m)
    n_needless = sum(s >= threshold for s, m in zip(score, is_malignant, strict=True) if not m)
    return (n_found - n_needless * threshold / (1 - threshold)) / len(score)


# Truth


def stratified_estimate(correct, strata, index, level=0.95):
    """Stratified mean with its interval for 0/1 verdicts, one stratum after the other, all verdicts there."""
    names = sorted(set(strata))
    pseudo = 1 / (len(names) + 1)
    value = shift = variance = third = 0.0
    for name in names:
        n_rows = sum(s == name for s in strata)
        verdicts = [correct[i] for i in index if strata[i] == name]
        weight, n, hits = n_rows / len(strata), len(verdicts), sum(verdicts)
        not_drawn = 1 - n / n_rows
        share = (hits + pseudo) / (n + 2 * pseudo)
        value += weight * hits / n
        shift += weight * not_drawn * (share - hits / n)
        variance += weight**2 * not_drawn * share * (1 - share) / (n + 2 * pseudo - 1)
        skew = share * (1 - share) * (1 - 2 * share) / (n + 2 * pseudo) ** 2
        third += 2 * weight**3 * not_drawn**1.5 * skew
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = statistics.NormalDist().inv_cdf(tail)
        ends.append(value + shift + variance**0.5 * z + third / variance * (z * z - 1) / 6)
    return value, min(max(0, ends[0]), value), max(min(1, ends[1]), value)
