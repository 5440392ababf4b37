"""What is remembered of the talk: answers with the weights that wrote them, and people's thumbs. Knows no HTTP."""

import threading
from typing import get_args

from tutelage.errors import DataError
from tutelage.serve.voice import Asked, Voice
from tutelage.serve.wire import FeedbackRequest
from tutelage.store.completions import add_completions, get_completion
from tutelage.store.db import Store
from tutelage.store.feedback import current, record
from tutelage.store.lineage import add_model_version, model_versions
from tutelage.store.people import add_labeler
from tutelage.store.prompts import add_prompts
from tutelage.types import Completion, Feedback, Labeler, ModelVersion, Stage, StoredFeedback, Thumb, digest

SOURCE = "served"
LABELER = "served"  # whoever talks to the server: it knows no people


class Memory:
    """A store that takes in what is served."""

    def __init__(self, store: Store, voice: Voice) -> None:
        self._store, self._lock = store, threading.Lock()
        add_labeler(store, Labeler(pseudonym=LABELER, kind="human"))
        if voice.version not in {v.id for v in model_versions(store)}:
            add_model_version(store, _version(voice))
        # The newest thumb on each completion, so that another one replaces it.
        self._newest: dict[str, StoredFeedback] = {}
        for stored in current(store, kinds=["thumb"], labelers=[LABELER]):
            if isinstance(stored.feedback.judgement, Thumb):
                self._newest[stored.feedback.judgement.completion_id] = stored

    def keep(self, asked: Asked, written: list[Completion]) -> None:
        add_prompts(self._store, [asked.prompt])
        add_completions(self._store, written)

    def thumb(self, given: FeedbackRequest) -> StoredFeedback:
        """Stores a thumb on an answer that was served. Raises StoreError for an answer that is not known."""
        found = get_completion(self._store, given.completion_id)
        with self._lock:
            before = self._newest[found.id] if found.id in self._newest else None
            said = Thumb(completion_id=found.id, value=given.value, reasons=given.reasons)
            if before is not None and before.feedback.judgement == said:
                return before  # the same again
            old = before.seq if before is not None else None
            feedback = Feedback(
                labeler=LABELER,
                prompt_id=found.prompt_id,
                judgement=said,
                idempotency_key=f"served-{given.key or digest(found.id, given.value, given.reasons, old)}",
                source=SOURCE,
                shown=(found.id,),
                supersedes=old,
            )
            self._newest[found.id] = record(self._store, feedback)
            return self._newest[found.id]


def _version(voice: Voice) -> ModelVersion:
    if voice.lineage is None:
        sha = digest("served", voice.version, voice.chat.tokenizer_hash)
        return ModelVersion(id=voice.version, stage="external", weights_sha=sha)
    stage: Stage | None = voice.lineage["stage"] if voice.lineage["stage"] in get_args(Stage) else None
    if stage is None:
        raise DataError(f"{voice.name}: its lineage names the stage {voice.lineage['stage']!r}, which is unknown.")
    return ModelVersion(id=voice.version, stage=stage, weights_sha=voice.lineage["weights"])
