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
