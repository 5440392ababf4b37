"""The whole flow, in the order in which it happens. Each stage is skipped when its result is already published."""

from pathlib import Path
from typing import Any

from tutelage.log import say
from tutelage.publish import write_json
from tutelage.report.page import write_report
from tutelage.rounds import collect, judge, prepare, reward, rl
from tutelage.rounds.judge import Contender
from tutelage.rounds.recipe import Recipe
from tutelage.rounds.run import Run, open_run
from tutelage.rounds.summary import summarise


def run_recipe(recipe: Recipe | None, folder: Path, *, until: str = "", patient: bool = False) -> dict[str, Any]:
    """Starts or resumes a run and takes it as far as it can go. Returns the run's summary.

    until    "sft", "reward" or "rl" ends after that stage of the first round; nothing is summed up then
    patient  waits for people's labels instead of ending

    Raises WaitingForLabels when people must judge first, and RunInUseError when another process has the directory.
    """
    with open_run(recipe, folder, patient=patient) as run:
        if run.recipe.collect.labels == "simulated":
            say("The labellers of this run are SIMULATED: programs with a known taste and a known error, not people.")
        ended = flow(run, until)
        if ended is None:
            return {"until": until, "folder": str(folder)}
        summary = summarise(run, *ended)
        write_json(run.folder / "summary.json", summary)
    write_report(folder)
    return summary


def flow(run: Run, until: str = "") -> tuple[list[Contender], Contender] | None:
    """base -> SFT -> per round: sample, judge, freeze, reward model, RL, evaluate, gate.

    Returns all policies and the best of them; None when it ended at `until`.
    """
    prompts = prepare.material(run)
    base = prepare.base(run)
    sft = prepare.sft(run, base)
    if until == "sft":
        return None
    pretrained = reward.preference_pretraining(run, sft)
    contenders = [Contender("base", base), Contender("SFT", sft)]
    best = contenders[1]
    for i_round in range(1, run.recipe.run.rounds + 1):
        if run.recipe.collect.labels != "imported":
            groups = collect.sample(run, i_round, prompts, best.folder)
            collect.label(run, i_round, groups)
        snapshot = collect.freeze_round(run, i_round)
        rewards = reward.train(run, i_round, snapshot, sft, pretrained)
        if until == "reward":
            return None
        reward.learning_curve(run, i_round, snapshot, sft, pretrained)
        start = sft if run.recipe.run.start_from == "sft" else best.folder
        policy = rl.train(run, i_round, prompts, start, rewards, snapshot)
        if until == "rl":
            return None
        contenders.append(Contender(f"round {i_round}", policy))
        verdict = judge.evaluate(run, i_round, prompts, contenders, best, rewards)
        best = contenders[-1] if verdict.promoted else best
    return contenders, best
