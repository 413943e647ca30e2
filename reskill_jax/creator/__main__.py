"""Improves a skill directory from recorded episodes, without any training.

    python -m reskill_jax.creator --episodes=runs/a/episodes --bank=skills/ \
        --llm=openai:gpt-5 --output=proposal/

writes ``proposal/skills/`` (the bank as proposed, one SKILL.md directory per skill),
``proposal/report.md`` (what was found and why), ``proposal/proposal.json`` and
``proposal/calls.jsonl`` (every call to the model). The format of episodes is
described in `reskill_jax.creator.episodes`.
"""

import argparse
import importlib
import json
from pathlib import Path

from reskill_jax import terminal
from reskill_jax.codec import encode
from reskill_jax.creator import render
from reskill_jax.creator.episodes import as_evidence, read_episodes
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.proposal_report import Cycle, markdown
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.llm.backends import NAMES, Model
from reskill_jax.skills.rule import RuleTable
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank, save_bank
from reskill_jax.storage import write_text


def main() -> None:
    """Read, propose, write."""
    terminal.guard()
    flags = _parser().parse_args()
    try:
        failure = _run(flags)
    except ModuleNotFoundError as error:
        terminal.fail(f"{error}: pip install '.[llm]'")
    except (ValueError, OSError) as error:
        terminal.fail(error)
    if failure:
        terminal.fail(failure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reskill_jax.creator", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--episodes", type=Path, required=True, help="a .jsonl file or a directory")
    add("--bank", type=Path, help="directory of SKILL.md directories; default: none")
    add("--output", type=Path, default=Path("proposal"), help="directory to write")
    add(
        "--llm",
        default="offline",
        help=f"offline, replay:calls.jsonl, or one of {', '.join(NAMES)} with a model,"
        " e.g. openai:gpt-5",
    )
    add(
        "--rules",
        default="",
        help="environment whose rules --llm=offline writes skills from; default: none,"
        " its advice comes from the verbs of successful episodes",
    )
    add("--base_url", default="", help="address of the service; default: the maker's")
    add("--api_key_variable", default="", help="environment variable with the key")
    add("--unstructured", action="store_true", help="for services without schemas")
    add("--limits", action="store_true", help="tell it how long texts may be (vLLM)")
    add("--max_tokens", type=int, default=Model.max_tokens, help="of an answer")
    add("--timeout_s", type=float, default=Model.timeout_s, help="for an answer")
    add("--prompts", default="", help="directory of prompts that replace ours")
    add("--analysed_tasks", type=int, default=30, help="tasks analysed, at most")
    add("--calls", type=int, default=60, help="calls made, at most")
    add("--max_skills", type=int, default=8, help="skills in a bank, at most")
    return parser


def _run(flags: argparse.Namespace) -> str | None:
    bank = load_bank(flags.bank) if flags.bank else SkillBank()
    records = read_episodes(flags.episodes)
    evidence = as_evidence(records, bank, max_skills=flags.max_skills)
    proposal, report, error = _propose(flags, evidence)
    flags.output.mkdir(parents=True, exist_ok=True)
    write_text(flags.output / "report.md", report)
    terminal.say(report)
    if proposal is None:
        return error or None
    verdict = verify(proposal, evidence)
    assert isinstance(verdict, Verified), "creators hand over what passes"
    save_bank(verdict.candidate, flags.output / "skills")
    text = json.dumps(encode(proposal), indent=2) + "\n"
    write_text(flags.output / "proposal.json", text)
    print(f"The proposed skills are in {flags.output / 'skills'}.")
    return None


def _propose(
    flags: argparse.Namespace, evidence: Evidence
) -> tuple[Proposal | None, str, str]:
    """Return the proposal, the report and, if a model failed, its error."""
    name, _, rest = flags.llm.partition(":")
    if name == "offline":
        table = _rule_table(flags.rules)
        cycle = Cycle(assertions=render.assertions(table.assertions, evidence))
        found = OfflineCreator(table).propose(evidence)
        return found, markdown(evidence, found, cycle, {}), ""
    if name not in (*NAMES, "replay"):
        raise ValueError(f"--llm={flags.llm!r}: use offline, replay or one of {NAMES}")
    # pydantic comes with an extra.
    from reskill_jax.creator.factory import make_llm_creator, problem  # noqa: PLC0415

    settings = {
        "llm": {
            "name": "" if name == "replay" else rest,
            "base_url": flags.base_url,
            "api_key_variable": flags.api_key_variable,
            "structured": not flags.unstructured,
            "limits": flags.limits,
            "max_tokens": flags.max_tokens,
            "timeout_s": flags.timeout_s,
        },
        "budget": {"cycle_calls": flags.calls},
        "retry": {},
        "prompts": flags.prompts,
        "replay": rest if name == "replay" else "",
        "analysed_tasks": flags.analysed_tasks,
    }
    if trouble := problem(name, **settings):
        raise ValueError(f"--llm={flags.llm}: {trouble}")
    creator = make_llm_creator(name, flags.output / "calls.jsonl", **settings)
    proposal = creator.propose(evidence)
    report = markdown(evidence, proposal, creator.last, creator.take_metrics())
    return proposal, report, creator.last.error


def _rule_table(environment: str) -> RuleTable:
    """Return the table of an environment's module `rules`; the empty one for "".

    Raises:
        ValueError: there is no such environment, or it has no rules.
    """
    if not environment:
        return RuleTable()
    module = f"reskill_jax.environments.{environment}.rules"
    try:
        return importlib.import_module(module).TABLE
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "-"):
            raise  # the rules are there, and something that they need is not
        raise ValueError(
            f"--rules={environment!r}: there is no {module}; name an environment that"
            " has rules, or leave it out"
        ) from error


if __name__ == "__main__":
    main()
