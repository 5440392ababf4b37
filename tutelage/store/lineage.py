"""Model versions and where they came from: from any weights back to the people whose judgement shaped them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.errors import StoreError
from tutelage.store import feedback, schema
from tutelage.store.candidates import ACCEPTED
from tutelage.store.db import Store
from tutelage.types import ModelVersion, Stage

FIELDS = tuple(ModelVersion.model_fields)


@dataclass(frozen=True, slots=True)
class Share:
    """What one labeler put into a snapshot. Example: `Share("ann-01", "human", 212)`."""

    labeler: str
    kind: str
    judgements: int


@dataclass(frozen=True, slots=True)
class Step:
    """One version of the chain, and the labelers behind the snapshot that it was trained on, most judgements first."""

    version: ModelVersion
    shares: tuple[Share, ...]
    is_snapshot_known: bool  # False when the version names none, or one that this store did not freeze


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version, its parents and the reward models that they were trained against, newest first."""

    steps: tuple[Step, ...]

    @property
    def labelers(self) -> tuple[str, ...]:
        """Every pseudonym behind the weights, by name."""
        return tuple(sorted({share.labeler for step in self.steps for share in step.shares}))


def add_model_version(store: Store, version: ModelVersion) -> None:
    """Names weights, after their parent. The same again changes nothing; the same id for other weights is refused."""
    table, row = schema.model_version, version.model_dump()
    schema.plain("the model version", "".join(str(v) for v in row.values()))
    with store.write() as conn:
        known = conn.execute(sa.select(table).where(table.c.id == version.id)).first()
        if known is not None:
            if _version(known) != version:
                raise StoreError(
                    f"model version {version.id!r} is in this store with other particulars. "
                    f"Give other weights an id of their own."
                )
            return
        if version.parent and conn.scalar(sa.select(table.c.id).where(table.c.id == version.parent)) is None:
            raise StoreError(
                f"model version {version.id!r}: its parent {version.parent!r} is not there. Add the parent first."
            )
        conn.execute(sa.insert(table).values(**row, created_at=store.now()))


def model_versions(store: Store, stage: Stage | None = None) -> list[ModelVersion]:
    """All versions in the order in which they were added, those of one stage when it is given."""
    query = sa.select(schema.model_version).order_by(schema.model_version.c.n)
    if stage is not None:
        query = query.where(schema.model_version.c.stage == stage)
    with store.read() as conn:
        return [_version(row) for row in conn.execute(query)]


def _version(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(**{name: getattr(row, name) for name in FIELDS})


def trace(store: Store, version_id: str) -> Lineage:
    """Follows parents, and reward models that are versions themselves, back to the first weights."""
    table = schema.model_version
    steps: list[Step] = []
    with store.read() as conn:
        version_ids = [version_id]
        while version_ids:
            wanted = version_ids.pop(0)
            if any(step.version.id == wanted for step in steps):
                continue
            row = conn.execute(sa.select(table).where(table.c.id == wanted)).first()
            if row is None:
                raise StoreError(f"there is no model version {wanted!r} in this store. `model_versions` lists them.")
            version = _version(row)
            shares = _shares(conn, version.snapshot)
            steps.append(Step(version, shares or (), shares is not None))
            version_ids += [version.parent] if version.parent else []
            if version.reward_model:
                found = sa.or_(table.c.weights_sha == version.reward_model, table.c.id == version.reward_model)
                version_ids += list(conn.scalars(sa.select(table.c.id).where(found).order_by(table.c.n)))
    return Lineage(tuple(steps))


def _shares(conn: Connection, snapshot_hash: str | None) -> tuple[Share, ...] | None:
    """Who stands behind a snapshot: counted from the events, which cannot have changed since it was frozen.

    A demonstration that a reviewer accepted counts for the reviewer and for the person who wrote it.
    """
    table, event, labeler = schema.snapshot, schema.event, schema.labeler
    row = conn.execute(sa.select(table).where(table.c.hash == snapshot_hash)).first() if snapshot_hash else None
    if row is None:
        return None
    frozen = [
        event.c.seq <= row.seq_upto,
        event.c.kind.not_in(("skip", "proposal")),
        feedback.not_superseded(row.seq_upto),
        *feedback.among(None, None, row.query["sources"]),
    ]
    proposal = event.alias("proposal")
    accepted = event.c.idempotency_key == sa.literal(ACCEPTED + feedback.EVENT) + proposal.c.idempotency_key
    n: Counter[tuple[str, str]] = Counter()
    for of, said in ((event, sa.true()), (proposal, sa.and_(proposal.c.kind == "proposal", accepted))):
        query = (
            sa.select(of.c.labeler, labeler.c.kind, sa.func.count().label("n"))
            .join(labeler, labeler.c.pseudonym == of.c.labeler)
            .where(*frozen, said)
            .group_by(of.c.labeler, labeler.c.kind)
        )
        n.update({(r.labeler, r.kind): int(r.n) for r in conn.execute(query)})
    return tuple(Share(*who, judgements) for who, judgements in sorted(n.items(), key=lambda i: (-i[1], i[0])))
