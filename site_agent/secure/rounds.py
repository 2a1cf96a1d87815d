"""A site's work in a secure round, off the main loop: keys, shares, the masked update, consent, reveal.

The agenda asks (`RunSecure`), and is told what may be said (`SecureAnswered`, `UpdateMasked`) or why nothing is
(`SecureRefused`). Judged by `messages.secure.site_rules` against the record in the spool. What is done is in the spool
before anything of it leaves: with the answer, in its transaction; of the masks before the first one is made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from messages import kinds
from messages.experiment import Experiment
from messages.ground.clock import Clock
from messages.ground.durable import is_out_of_space
from messages.ground.errors import KonsilError
from messages.kinds import Body
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.secure import site_rules
from messages.secure.context import Context
from messages.secure.dealing import OpenedMail, choose_reveal, deal_shares, open_mail
from messages.secure.encoding import find_share
from messages.secure.figures import encode_figures
from messages.secure.keys import KEY_BYTES, SiteSecrets, public_of
from messages.secure.masks import masks_of_site
from messages.secure.pooled import (
    describe_masked,
    is_maskable,
    lay_out_words,
    list_figures,
    list_scoring,
    tell_scoring,
    tell_training,
)
from messages.secure.shared import is_shared
from messages.secure.site_rules import PeerFloors, SecureRecord
from messages.tensors.layout import Manifest
from messages.tensors.seals import Sealer, map_file
from messages.tensors.transfer import TransferKey
from messages.trust.signatures import name_key
from nets.digest import model_digest
from site_agent.core.inputs import AnyInput, NoSpace, SecureAnswered, SecureRefused, UpdateMasked
from site_agent.core.jobs import Job, event_of, experiment_of
from site_agent.core.permissions import Floors
from site_agent.core.policy import count_least
from site_agent.core.secure.changes import Work
from site_agent.core.secure.state import SecurePart
from site_agent.datasets.vault import Damaged, Vault
from site_agent.disk.spool import Spool
from site_agent.secure.believing import Believing, NotDone, body_of, find_own_weight
from site_agent.secure.kept import PURPOSE, open_record, open_secrets, pack_record, seal_secrets
from site_agent.secure.updates import OutOfRange, mask_figures, write_masked, write_words

log = structlog.get_logger()


class SecureWork:
    """Does it. Any thread, one task of an experiment at a time.

    Args:
        draw: so many random bytes; a try's secrets come of it.
        room: bytes that may still be written.
    """

    def __init__(
        self,
        site: str,
        spool: Spool,
        sealer: Sealer,
        believing: Believing,
        floors: Floors,
        draw: Callable[[int], bytes],
        room: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._site, self._spool, self._sealer, self._believing = site, spool, sealer, believing
        self._floors, self._draw, self._room, self._clock = floors, draw, room, clock

    def do_work(self, job: Job, work: Work) -> AnyInput:
        """Do what a job's secure round asks for; what to tell the agenda.

        Raises:
            KonsilError: the spool cannot be written.
        """
        part = job.secure
        assert part is not None  # noqa: S101 (for mypy: the agenda asks for it in a secure round only)
        try:
            return self._WORK[work](self, job, part)
        except NotDone as refused:
            log.warning("a secure round is not gone on with", reason=refused.reason, why=refused.words)
            return SecureRefused(job.experiment, job.round, job.opening, refused.reason)

    # what is kept

    def _vault(self) -> Vault:
        return Vault(self._spool.site_secret(), PURPOSE)

    def _read_kept(self, job: Job) -> tuple[SiteSecrets, SecureRecord]:
        kept = self._spool.secure.read_row(job.experiment, job.round)
        if kept is None:
            raise NotDone(Reason.SECRETS_LOST, "no secrets of this round are kept")
        try:
            return open_secrets(self._vault(), kept), open_record(kept)
        except (Damaged, KonsilError) as error:
            raise NotDone(Reason.SECRETS_LOST, f"the secrets of this round cannot be opened: {error}") from None

    def _answer(self, job: Job, kind: str, body: Body, secrets: SiteSecrets, record: SecureRecord) -> SecureAnswered:
        kept = seal_secrets(self._vault(), secrets, record)
        return SecureAnswered(job.experiment, job.round, job.opening, kind, body, kept)

    def _floors_of(self, job: Job) -> PeerFloors:
        return floors_of(self._floors, experiment_of(job))

    # steps

    def _announce_keys(self, job: Job, part: SecurePart) -> AnyInput:
        body = event_of(part.start).body
        if isinstance(body, kinds.RoundStart) and not is_maskable(body.transfer.manifest):
            raise NotDone(Reason.UNSUPPORTED, "the model has tensors other than float32, which no mask covers")
        kept = self._spool.secure.read_row(job.experiment, job.round)
        record = SecureRecord() if kept is None else open_record(kept)
        _refuse(site_rules.judge_opening(record, job.round, part.tried), "keys are not announced for this try")
        secrets = SiteSecrets(self._draw(KEY_BYTES))
        seal_key, mask_key = public_of(secrets.seal_private), public_of(secrets.mask_private)
        record = site_rules.note_opening(record, job.round, part.tried, seal_key, mask_key)
        said = kinds.SecureKeys(tried=part.tried, sealing=seal_key, masking=mask_key)
        return self._answer(job, "secure-keys", said, secrets, record)

    def _deal_shares(self, job: Job, part: SecurePart) -> AnyInput:
        secrets, record = self._read_kept(job)
        believed = self._believing.read_roster(job)
        exchange = believed.exchange
        if self._site not in exchange.members:
            raise NotDone(Reason.ABSENT, "the round goes on without this site")
        reason = site_rules.judge_roster(record, exchange, self._site, believed.verified, self._floors_of(job))
        lapsed = self._believing.tell_lapsed(self._floors.peers or ())
        _refuse(reason, "no shares are dealt to this roster" + (f": {lapsed}" if lapsed else ""))
        deal = deal_shares(secrets, exchange, self._site)
        body = kinds.SecureShares(
            tried=part.tried, roster=exchange.digest.hex(), shares=dict(deal.sealed), seed=deal.commitment.hex()
        )
        return self._answer(job, "secure-shares", body, secrets, site_rules.note_roster(record, exchange))

    def _read_context(self, job: Job) -> Context:
        return self._believing.read_context(job, self._believing.read_roster(job).exchange)

    def _mask(self, job: Job, part: SecurePart) -> AnyInput:
        secrets, record = self._read_kept(job)
        context = self._read_context(job)
        own = find_own_weight(job, context, self._site)
        reason = site_rules.judge_masking(record, context, self._site, own, self._floors_of(job))
        _refuse(reason, "nothing is masked so")
        if isinstance(event_of(part.start).body, kinds.EvaluationStart):
            return self._mask_scores(job, context, secrets, record)
        return self._mask_update(job, context, secrets, record)

    def _mask_scores(self, job: Job, context: Context, secrets: SiteSecrets, record: SecureRecord) -> AnyInput:
        asked = job.evaluation_start
        for one in asked.models:
            _check_model(self._model_file(job, one.transfer), one.transfer.manifest, one.model_digest)
        table = list_scoring(experiment_of(job), asked.digests())
        told = tell_scoring({label: {**one.splits} for label, one in job.scores.items()})
        masked = mask_figures(table, told, masks_of_site(secrets, context, self._site))
        body = kinds.SecureFigures(tried=context.exchange.attempt, masked=masked)
        return self._answer(job, "secure-figures", body, secrets, site_rules.note_masking(record, context))

    def _model_file(self, job: Job, sealed: Sealed) -> Path:
        return self._spool.global_file(TransferKey(job.experiment, sealed.round, COORDINATOR, sealed.attempt))

    def _mask_update(self, job: Job, context: Context, secrets: SiteSecrets, record: SecureRecord) -> AnyInput:
        start, inside = job.round_start, job.trained
        assert inside is not None  # noqa: S101 (for mypy: the agenda asks once it is trained)
        sealed = start.transfer_to(self._site)
        experiment = experiment_of(job)
        table = list_figures(experiment, evaluate=start.evaluate)
        masked = describe_masked(sealed.manifest, len(table))
        place = (job.experiment, job.round, self._site, job.attempt)
        words, update = self._spool.words_file(*place), self._spool.update_file(*place)
        if 2 * masked.nbytes > self._room():
            return NoSpace(job.experiment)
        try:
            if not record.context:
                words.unlink(missing_ok=True)  # of another context, perhaps: its share is not known to be this one's
            if not words.exists():
                if record.context:
                    raise NotDone(Reason.SECRETS_LOST, "the difference that was to be masked is gone")
                model = self._model_file(job, sealed)
                _check_model(model, sealed.manifest, start.model_digest)
                told = tell_training(inside.cases, inside.loss, inside.validation, _count_protected(job))
                write_words(
                    words,
                    trained=self._spool.trained_file(*place),
                    received=model,
                    manifest=sealed.manifest,
                    share=find_share(context, self._site),
                    norm_max=experiment.privacy.update_norm_max,
                    figures=encode_figures(table, told),
                    whole=is_shared(experiment),
                )
            before, noted = pack_record(record), pack_record(site_rules.note_masking(record, context))
            if not self._spool.secure.note_record(job.experiment, job.round, before, noted):
                raise NotDone(Reason.ABSENT, "the round is over, or masked under another context")
            write_masked(update, words, lay_out_words(masked), masks_of_site(secrets, context, self._site))
            seal = self._sealer.seal_file(update, masked)
        except OutOfRange as error:
            raise NotDone(Reason.UPDATE_OUT_OF_RANGE, f"beyond what a sum can hold: {error}") from None
        except ValueError as error:
            raise NotDone(Reason.TRAINING_ERROR, f"the update cannot be masked: {error}") from None
        except OSError as error:
            if is_out_of_space(error):
                return NoSpace(job.experiment)
            raise NotDone(Reason.TRAINING_ERROR, f"the update cannot be masked: {error}") from None
        transfer = Sealed(round=job.round, attempt=job.attempt, seal=seal, manifest=masked)
        return UpdateMasked(job.experiment, job.round, job.attempt, transfer)

    def _consent(self, job: Job, part: SecurePart) -> AnyInput:
        secrets, record = self._read_kept(job)
        context = self._read_context(job)
        sites = body_of(part.closing, kinds.SecureClosing).sites
        reason = site_rules.judge_closing(record, context, sites, self._site, self._floors_of(job))
        _refuse(reason, "no consent is given to this sum")
        closing = context.close_over(sites).hex()
        body = kinds.SecureConsent(tried=part.tried, context=context.digest.hex(), closing=closing)
        return self._answer(job, "secure-consent", body, secrets, site_rules.note_closing(record, context, sites))

    def _reveal(self, job: Job, part: SecurePart) -> AnyInput:
        secrets, record = self._read_kept(job)
        context = self._read_context(job)
        sites = body_of(part.closing, kinds.SecureClosing).sites
        consents = self._believing.read_consents(job, body_of(part.asked, kinds.SecureUnmasking))
        floors = self._floors_of(job)
        reason = site_rules.judge_unmasking(record, context, sites, self._site, consents, floors)
        _refuse(reason, "nothing is revealed for this sum")
        found = choose_reveal(context, sites, self._open_mail(part, context, secrets).held)
        body = kinds.SecureReveal(tried=part.tried, seeds=dict(found.of_seeds), keys=dict(found.of_keys))
        return self._answer(job, "secure-reveal", body, secrets, site_rules.note_unmasking(record, context, sites))

    def _open_mail(self, part: SecurePart, context: Context, secrets: SiteSecrets) -> OpenedMail:
        """No complaint is made of what does not open. What a peer sealed is not signed alone: a coordinator could
        change it, and would read both shares of that peer with the key that a complaint reveals."""
        mail = body_of(part.mail, kinds.SecureMail).shares
        opened = open_mail(secrets, context, self._site, dict(mail))
        if opened.unreadable:
            log.warning("what peers sealed for this site does not open: left out", peers=list(opened.unreadable))
        return opened

    _WORK: dict[Work, Callable[[SecureWork, Job, SecurePart], AnyInput]] = {
        "secure-keys": _announce_keys,
        "secure-shares": _deal_shares,
        "masking": _mask,
        "secure-consent": _consent,
        "secure-reveal": _reveal,
    }


def _count_protected(job: Job) -> int | None:
    """Under a shared noise, how many the sum is divided by for this site: its patients as announced, or itself."""
    plan = job.privacy
    if plan is None or plan.noise != "shared":
        return None
    return 1 if plan.unit == "site" else plan.patients


def floors_of(floors: Floors, experiment: Experiment) -> PeerFloors:
    """What the policy asks of the others, in the words of the rules."""
    pinned = None if floors.peers is None else frozenset(name_key(one) for one in floors.peers)
    return PeerFloors(count_least(floors, experiment), floors.secure_colluding, pinned, experiment.least_sites)


def _refuse(reason: Reason | None, words: str) -> None:
    if reason is not None:
        raise NotDone(reason, words)


def _check_model(path: Path, manifest: Manifest, digest: str) -> None:
    """Refuse a model that is another one than the round's start names: two sites may have been sent different ones."""
    if model_digest(manifest, map_file(path, manifest)) != digest:
        raise NotDone(Reason.OTHER_CONTEXT, "the model that came is not the one that the round is of")
