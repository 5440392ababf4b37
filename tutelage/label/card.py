"""The data card of an export: what is in it, who judged which models by which guideline, how far they agree, which
licence."""

from collections import Counter, defaultdict
from typing import Any

from tutelage import __version__
from tutelage.label.quality_agreement import Known, Tiers, agreed, concordance, known_alpha, signs
from tutelage.stats.agreement import Judgement, Rate
from tutelage.store.completions import models_named
from tutelage.store.db import Store
from tutelage.store.feedback import completions_named, current, head
from tutelage.store.lineage import model_versions
from tutelage.store.people import labeler_kinds
from tutelage.store.projects import Project, guidelines
from tutelage.types import Ranking


def data_card(store: Store, project: Project, sources: list[str], licence: str) -> dict[str, Any]:
    """The card of the judgements that stand now. Labelers are named by pseudonym alone."""
    last, kinds = head(store), labeler_kinds(store)
    counts: Counter[str] = Counter()
    by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_labeler: Counter[str] = Counter()
    by_guideline: Counter[str] = Counter()
    ranked: list[Judgement] = []
    texts: set[str] = set()
    for stored in current(store, sources=sources, upto_seq=last.seq):
        f = stored.feedback
        counts[f.judgement.kind] += 1
        by_source[f.source or "unnamed"][f.judgement.kind] += 1
        by_labeler[f.labeler] += 1
        by_guideline[f.guideline or ""] += 1
        texts.update(completions_named(f.judgement))
        if isinstance(f.judgement, Ranking):
            ranked.append((f.labeler, f.prompt_id, {i.completion_id: i.tier for i in f.judgement.items}))
    known = {g.id: g for g in guidelines(store, project.id)}
    return {
        "project": project.name,
        "made_at": store.now(),
        "made_by": f"tutelage {__version__}",
        "licence": licence or "not stated",
        "judgements": dict(sorted(counts.items())),
        "sources": {name: dict(sorted(c.items())) for name, c in sorted(by_source.items())},
        "labelers": _people(by_labeler, kinds),
        "models": _models(store, texts),
        "guidelines": [
            {
                "id": id or None,
                "version": known[id].version if id in known else None,
                "published_at": known[id].published_at if id in known else None,
                "judgements": n,
            }
            for id, n in sorted(by_guideline.items(), key=lambda kv: (kv[0] not in known, kv[0]))
        ],
        "agreement": _agreement(ranked),
        "chain": {"seq": last.seq, "hash": last.hash},
    }


def _people(by_labeler: Counter[str], kinds: dict[str, Any]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, n in sorted(by_labeler.items()):
        found.setdefault(kinds[name], {})[name] = n
    return found


def _models(store: Store, texts: set[str]) -> list[dict[str, Any]]:
    """What each model that rows name is; its particulars are None where the store does not know its weights."""
    known = {version.id: version for version in model_versions(store)}
    told = ("stage", "weights_sha", "parent", "snapshot")
    return [
        {"id": id, "texts": n, **{name: getattr(known[id], name) if id in known else None for name in told}}
        for id, n in models_named(store, texts).items()
    ]


def _agreement(ranked: list[Judgement]) -> dict[str, Any]:
    """Agreement of different labelers with 95 % intervals over prompts; None where nothing can be compared."""
    found = agreed(ranked)
    w, tau = concordance(_shared(ranked))
    return {
        "prompts_judged_twice": found.n_prompts,
        "ties_are_answers": _rate(found.exact),
        "ties_count_half": _rate(found.half),
        "without_ties": _rate(found.untied),
        "alpha_nominal": _coefficient(known_alpha(signs(ranked), "nominal")),
        "alpha_ordinal": _coefficient(known_alpha(signs(ranked), "ordinal")),
        "kendall_w": _coefficient(w),
        "kendall_tau": _coefficient(tau),
    }


def _shared(ranked: list[Judgement]) -> list[tuple[str, list[Tiers]]]:
    """Rankings of the same texts, three or more; of two by the same person the later one."""
    groups: defaultdict[tuple[str, frozenset[str]], dict[str, Tiers]] = defaultdict(dict)
    for labeler, prompt, tiers in ranked:
        if len(tiers) > 2:
            groups[prompt, frozenset(tiers)][labeler] = tiers
    return [(prompt, list(said.values())) for (prompt, _), said in groups.items()]


def _coefficient(known: Known) -> dict[str, Any] | None:
    if known.found is None:
        return None
    return {"value": known.found.value, "low": known.found.low, "high": known.found.high, "units": known.found.n}


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {"value": rate.value, "low": rate.low, "high": rate.high, "comparisons": rate.n}


def readable(card: dict[str, Any]) -> str:
    """The card as Markdown, for people."""
    lines = [
        f"# Data card: {card['project']}", "",
        f"- Made: {card['made_at'][:16].replace('T', ' ')} UTC by {card['made_by']}",
        f"- Licence: {card['licence']}",
        f"- Log: event {card['chain']['seq']}, hash `{card['chain']['hash'] or 'none'}`", "",
        "## What is in it", "", "| Source | Kind | Judgements |", "|---|---|---:|",
        *(f"| {_cell(s)} | {kind} | {n} |" for s, counts in card["sources"].items() for kind, n in counts.items()), "",
        "## Who judged", "", "| Kind of labeler | Pseudonym | Judgements |", "|---|---|---:|",
        *(f"| {kind} | {_cell(who)} | {n} |" for kind, some in card["labelers"].items() for who, n in some.items()), "",
        "## Which models wrote", "",
        "| Model | Texts | Stage | Weights (SHA-256) | Parent | Snapshot |", "|---|---:|---|---|---|---|",
        *(_model_row(model) for model in card["models"]), "",
        "## By which guideline", "",
        *(
            f"- {'version ' + str(g['version']) if g['version'] else g['id'] or 'none in force'}: {g['judgements']} "
            f"judgements"
            for g in card["guidelines"]
        ), "",
        "## How far people agree", "",
        f"- Prompts that two or more ranked: {card['agreement']['prompts_judged_twice']}",
        *(f"- {name}: {_told(card['agreement'][key])}" for name, key in (
            ("Better, tie and worse as three answers", "ties_are_answers"),
            ("A tie against a preference as half", "ties_count_half"),
            ("Without ties", "without_ties"),
        )),
        *(f"- {name}: {_told_coefficient(card['agreement'][key])}" for name, key in (
            ("Krippendorff's alpha of pairs, nominal", "alpha_nominal"),
            ("Krippendorff's alpha of pairs, ordinal", "alpha_ordinal"),
            ("Kendall's W of rankings of three and more", "kendall_w"),
            ("Kendall's tau-b of the same", "kendall_tau"),
        )), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _model_row(model: dict[str, Any]) -> str:
    said = [model[name] or "not known" for name in ("stage", "weights_sha", "parent", "snapshot")]
    return f"| {_cell(model['id'])} | {model['texts']} | {' | '.join(_cell(s) for s in said)} |"


def _told_coefficient(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not enough to say"
    interval = f"{found['low']:.3f} to {found['high']:.3f}"
    return f"{found['value']:.3f} (95 % interval {interval}, {found['units']} units)"


def _told(rate: dict[str, Any] | None) -> str:
    if rate is None:
        return "not enough to say"
    interval = f"{rate['low']:.1%} to {rate['high']:.1%}"
    return f"{rate['value']:.1%} (95 % interval {interval}, {rate['comparisons']} comparisons)"
