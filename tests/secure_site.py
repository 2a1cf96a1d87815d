"""A site of a secure round without any service: hears what the coordinator says, and answers it. Pure but for its
training, which adds a number to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages import kinds
from messages.envelope import Author
from messages.experiment import Experiment
from messages.scores import SplitScores
from messages.secure.context import Context, Exchange, make_context, make_exchange
from messages.secure.dealing import choose_reveal, deal_shares, open_mail
from messages.secure.encoding import find_share, find_shrink, quantise_tensor, sum_squares
from messages.secure.figures import encode_figures
from messages.secure.keys import SiteSecrets, public_of, sealing_key
from messages.secure.masks import WordLayout, add_masks, masks_of_site
from messages.secure.pooled import (
    describe_masked,
    lay_out_words,
    list_figures,
    list_scoring,
    name_candidates,
    tell_scoring,
    tell_training,
)
from messages.secure.rules import ThresholdRule, threshold_of
from messages.secure.said import read_consent, read_member, read_said
from messages.tensors.layout import Manifest, chunk_digests, seal_transfer
from messages.trust.keys import derive_key

Arrays = Mapping[str, NDArray[np.float32]]


class PureSite:
    """Args:
    experiment: the file, as accepted; digest: of it.
    cases: training cases, as it joined. trained: model → model, what its training makes.
    """

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        digest: str,
        manifest: Manifest,
        cases: int,
        trained: Callable[[str, NDArray[np.float32]], NDArray[np.float32]],
    ) -> None:
        self.name, self.cases, self.trained = name, cases, trained
        self.experiment, self.digest, self.manifest = experiment, digest, manifest
        self.author = Author("demo", name, 1, key=derive_key(sha256(name.encode()).digest()))
        self.loss, self.validation = 0.5, None
        self.start: kinds.RoundStart | None = None
        self.rule: ThresholdRule | None = None
        self.model = ""
        self.number = 0
        self.tried = 0
        self.mail: Mapping[str, bytes] = {}
        self.weights: dict[str, int] = {}
        self.sites: list[str] = []
        self.plain: NDArray[np.uint8] | None = None
        """The words of its newest update before they were masked."""

    validation: SplitScores | None

    @property
    def secrets(self) -> SiteSecrets:
        return SiteSecrets(sha256(f"{self.name}|{self.number}|{self.tried}".encode()).digest())

    def hear_start(self, number: int, body: kinds.RoundStart) -> kinds.SecureKeys:
        assert body.secure is not None
        self.start, self.number, self.tried = body, number, body.secure.tried
        self.model, self.rule = body.model_digest, body.secure.threshold
        keys = (public_of(self.secrets.seal_private), public_of(self.secrets.mask_private))
        return kinds.SecureKeys(tried=self.tried, sealing=keys[0], masking=keys[1])

    def hear_evaluation(self, number: int, body: kinds.EvaluationStart) -> kinds.SecureKeys:
        assert body.secure is not None
        self.evaluation, self.number, self.tried = body, number, body.secure.tried
        self.model, self.rule = name_candidates(body.digests()), body.secure.threshold
        keys = (public_of(self.secrets.seal_private), public_of(self.secrets.mask_private))
        return kinds.SecureKeys(tried=self.tried, sealing=keys[0], masking=keys[1])

    def tell_figures(
        self, body: kinds.SecureMasking, scores: Mapping[str, Mapping[str, SplitScores]]
    ) -> kinds.SecureFigures:
        """Its scores, masked."""
        self.weights = body.weights
        figures = list_scoring(self.experiment, [one.label for one in self.evaluation.models])
        buffer = encode_figures(figures, tell_scoring(scores)).view(np.uint8).copy()
        add_masks(buffer, WordLayout(0, len(figures)), masks_of_site(self.secrets, self.context, self.name))
        return kinds.SecureFigures(tried=self.tried, masked=buffer.tobytes())

    def hear_roster(self, body: kinds.SecureRoster) -> kinds.SecureShares:
        assert self.rule is not None
        roster = [read_member(event) for event in read_said(body.keys)]
        self.exchange: Exchange = make_exchange(
            experiment=self.digest,
            model=self.model,
            round_number=self.number,
            attempt=self.tried,
            threshold=threshold_of(len(roster), self.rule),
            roster=roster,
        )
        deal = deal_shares(self.secrets, self.exchange, self.name)
        return kinds.SecureShares(
            tried=self.tried,
            roster=self.exchange.digest.hex(),
            shares=dict(deal.sealed),
            seed=deal.commitment.hex(),
        )

    @property
    def context(self) -> Context:
        return make_context(self.exchange, self.weights)

    def hear_mail(self, body: kinds.SecureMail) -> None:
        self.mail = body.shares

    def hear_masking(self, body: kinds.SecureMasking, model: Arrays) -> tuple[kinds.WeightsReady, bytes]:
        """The masked update's bytes, and what seals them."""
        assert self.start is not None
        self.weights = body.weights
        figures = list_figures(self.experiment, evaluate=self.start.evaluate)
        masked = describe_masked(self.manifest, len(figures))
        layout = lay_out_words(masked)
        buffer = np.zeros(layout.nbytes, dtype=np.uint8)
        self._quantise(model, buffer[: 4 * layout.words32].view(np.uint32))
        told = tell_training(self.cases, self.loss, self.validation if self.start.evaluate else None)
        buffer[4 * layout.words32 :] = encode_figures(figures, told).view(np.uint8)
        self.plain = buffer.copy()
        add_masks(buffer, layout, masks_of_site(self.secrets, self.context, self.name))
        sealed = seal_transfer(masked, chunk_digests(masked, buffer))
        return self.seal_update(kinds.Transfer(round=self.number, seal=sealed, manifest=masked)), buffer.tobytes()

    def _quantise(self, model: Arrays, words: NDArray[np.uint32]) -> None:
        made = {name: self.trained(name, array) for name, array in model.items()}
        squares = sum(sum_squares(made[name], array) for name, array in model.items())
        shrink = find_shrink(squares, self.experiment.privacy.update_norm_max)
        share, place = find_share(self.context, self.name), 0
        for name, array in model.items():
            out = words[place : place + array.size]
            quantise_tensor(made[name], array, share=share, shrink=shrink, out=out)
            place += array.size

    def seal_update(self, transfer: kinds.Transfer) -> kinds.WeightsReady:
        counts = kinds.CaseCounts(found=self.cases + 2, used=self.cases + 2, train=self.cases, validation=1, test=1)
        platform = kinds.Platform(device_type="cpu", threads=1, versions={}, deterministic=True)
        return kinds.WeightsReady(
            transfer=transfer, cases_used=self.cases, cases=counts, epochs=1, steps=1, seconds=1.0, platform=platform
        )

    def hear_closing(self, body: kinds.SecureClosing) -> kinds.SecureConsent:
        self.sites = body.sites
        closing = self.context.close_over(body.sites).hex()
        return kinds.SecureConsent(tried=self.tried, context=self.context.digest.hex(), closing=closing)

    def hear_unmasking(self, body: kinds.SecureUnmasking) -> kinds.SecureReveal:
        consents = [read_consent(event) for event in read_said(body.consents)]
        assert len(consents) == self.exchange.threshold
        assert {one.closing for one in consents} == {self.context.close_over(self.sites).hex()}
        opened = open_mail(self.secrets, self.context, self.name, self.mail)
        told = choose_reveal(self.context, self.sites, opened.held)
        return kinds.SecureReveal(tried=self.tried, seeds=dict(told.of_seeds), keys=dict(told.of_keys))

    def complain(self, against: str) -> kinds.SecureComplaint:
        key = sealing_key(self.secrets.seal_private, self.exchange, against, self.name, own=self.name)
        return kinds.SecureComplaint(tried=self.tried, against=against, secret=key)

    def answer(self, body: kinds.Body, number: int) -> kinds.Body | None:
        """What it says to whatever opens a step, training excepted."""
        handlers: dict[type[kinds.Body], Any] = {
            kinds.RoundStart: lambda one: self.hear_start(number, one),
            kinds.EvaluationStart: lambda one: self.hear_evaluation(number, one),
            kinds.SecureRoster: self.hear_roster,
            kinds.SecureClosing: self.hear_closing,
            kinds.SecureUnmasking: self.hear_unmasking,
        }
        made = handlers.get(type(body))
        said: kinds.Body | None = None if made is None else made(body)
        return said
