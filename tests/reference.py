"""Slow, obvious versions of what ddeval computes fast: loops a reader can check against the definition."""


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
