"""Sources against a real PACS: Orthanc, over C-FIND with C-GET, over C-MOVE, and over DICOMweb."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dicom_files import SERIES, Taken, encoded, image, three, uid
from pacs_rig import WAYS, opened, settings
from pydicom.uid import RLELossless

from deploy.orthanc.node import OrthancNode
from messages.ground.errors import PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.dicom import sources
from site_agent.dicom.base import Fetched, SeriesFound


def hold(node: OrthancNode, *objects: Any) -> None:
    for obj in objects:
        node.store_files(encoded(obj))


@pytest.mark.parametrize("way", WAYS)
def test_what_the_query_fits_is_found_with_counts_and_comes_as_it_was_stored(way: str, orthanc: OrthancNode) -> None:
    hold(
        orthanc,
        *three(),
        image(1, 2, 1, modality="SEG"),
        image(1, 3, 1, modality="RTSTRUCT"),
        image(1, 4, 1, modality="PR"),
        image(2, 1, 1, modality="CT"),
        image(3, 1, 1, StudyDate="20230101"),
        image(4, 1, 1, StudyDescription="KNEE"),
    )
    query = {"since": date(2024, 1, 1), "until": date(2024, 12, 31), "description": "BRAIN*"}
    with opened(way, orthanc, query=query) as source:
        (study,) = source.find_studies()
        taken = Taken()
        fetched = [source.fetch_series(series, taken.has, taken.take) for series in study.series]

    assert (study.uid, study.patient) == (uid(1), "P1")
    assert study.series == (
        SERIES,
        SeriesFound(uid(1), uid(1, 2), "SEG", 1),
        SeriesFound(uid(1), uid(1, 3), "RTSTRUCT", 1),
    )
    assert fetched == [Fetched(3, 3), Fetched(1, 1), Fetched(1, 1)]
    stored = {obj.SOPInstanceUID: obj for obj in [*three(), image(1, 2, 1, modality="SEG")]}
    for obj in taken.objects:
        assert obj.file_meta.TransferSyntaxUID.is_little_endian
        if obj.Modality != "RTSTRUCT":
            assert obj.PixelData == stored[obj.SOPInstanceUID].PixelData


@pytest.mark.parametrize("way", WAYS)
def test_patients_are_asked_for_one_by_one(way: str, orthanc: OrthancNode, tmp_path: Path) -> None:
    hold(orthanc, *(image(number) for number in (1, 2, 3)))
    listed = tmp_path / "patients"
    listed.write_text("P1\nP3\nP9\n")
    with opened(way, orthanc, query={"patients": listed}) as source:
        assert [study.patient for study in source.find_studies()] == ["P1", "P3"]
    listed.write_text("A2\n")
    with opened(way, orthanc, query={"accessions": listed}) as source:
        assert [study.patient for study in source.find_studies()] == ["P2"]


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_pacs_has_no_studies(way: str, orthanc: OrthancNode) -> None:
    with opened(way, orthanc) as source:
        assert list(source.find_studies()) == []


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_missing_comes_again(way: str, orthanc: OrthancNode) -> None:
    hold(orthanc, *three())
    with opened(way, orthanc) as source:
        taken = Taken(uid(1, 1, 2))
        assert source.fetch_series(SERIES, taken.has, taken.take) == Fetched(2, 3)
        assert taken.uids == [uid(1, 1, 1), uid(1, 1, 3)]
        assert source.fetch_series(SERIES, taken.has, taken.take) == Fetched(0, 3)


@pytest.mark.parametrize("way", WAYS)
def test_a_series_that_lost_objects_since_it_was_found_is_incomplete(way: str, orthanc: OrthancNode) -> None:
    hold(orthanc, *three())
    with opened(way, orthanc) as source:
        ((series,),) = [study.series for study in source.find_studies()]
        one = json.loads(orthanc.request("GET", "/instances"))[0]
        orthanc.request("DELETE", f"/instances/{one}")
        taken = Taken()
        assert source.fetch_series(series, taken.has, taken.take) == Fetched(2, 2, Reason.INCOMPLETE_SERIES)


@pytest.mark.parametrize("way", WAYS)
def test_a_series_that_is_gone_is_not_retrieved(way: str, orthanc: OrthancNode) -> None:
    hold(orthanc, image(2))
    with opened(way, orthanc) as source:
        fetched = source.fetch_series(SERIES, Taken().has, Taken().take)
    assert (fetched.present, fetched.reason in (Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES)) == (0, True)


@pytest.mark.parametrize("way", WAYS)
def test_compressed_objects_come_compressed_and_can_be_decoded(way: str, orthanc: OrthancNode) -> None:
    for obj in three():
        obj.compress(RLELossless, generate_instance_uid=False)
        hold(orthanc, obj)
    with opened(way, orthanc) as source:
        taken = Taken()
        assert source.fetch_series(SERIES, taken.has, taken.take) == Fetched(3, 3)
    for obj in taken.objects:
        assert obj.file_meta.TransferSyntaxUID == RLELossless
        assert (obj.pixel_array == obj.InstanceNumber).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_node_that_answers_passes_the_look_before_work(way: str, orthanc: OrthancNode) -> None:
    sources.echo_source(settings(way, orthanc))


@pytest.mark.parametrize("way", ["get", "move"])
@pytest.mark.parametrize("changes", [{"ae": "STRANGER"}, {"called": "NOBODY"}])
def test_an_unregistered_ae_title_is_refused_in_one_clear_line(
    way: str, changes: dict[str, str], orthanc: OrthancNode
) -> None:
    hold(orthanc, *three())
    config = settings(way, orthanc, **changes)
    name = next(iter(changes.values()))
    with pytest.raises(PacsRefused, match=name):
        sources.echo_source(config)
    source = sources.open_source(config, Path("unused"))
    with pytest.raises(PacsRefused, match=name):
        source.find_studies()
    source.close()


def test_a_move_to_an_ae_title_that_the_pacs_does_not_know_is_refused(
    make_orthanc: Callable[..., OrthancNode],
) -> None:
    node = make_orthanc(aets={}, strict_aet=False)
    hold(node, *three())
    source = sources.open_source(settings("move", node), Path("unused"))
    with pytest.raises(PacsRefused, match=r"C-MOVE ends with status 0x[0-9A-F]{4}.*"):
        source.fetch_series(SERIES, Taken().has, Taken().take)
    source.close()


def test_users_are_asked_for_their_password(make_orthanc: Callable[..., OrthancNode]) -> None:
    node = make_orthanc(users={"konsil-site": "right"})
    hold(node, *three())
    with opened("web", node, user="konsil-site", password="right") as source:
        taken = Taken()
        assert len(source.find_studies()) == 1
        assert source.fetch_series(SERIES, taken.has, taken.take) == Fetched(3, 3)
    for wrong in ({"user": "konsil-site", "password": "wrong"}, {}):
        with opened("web", node, **wrong) as source, pytest.raises(PacsRefused, match=r"credentials \(HTTP 401"):
            source.find_studies()


@pytest.mark.parametrize("way", WAYS)
def test_a_pacs_that_dies_in_mid_transfer_is_told_and_the_rest_comes_later(
    way: str, make_orthanc: Callable[..., OrthancNode]
) -> None:
    side = 512 if way == "web" else 64  # over HTTP the answer has to be more than sockets hold
    many = [image(1, 1, number, side=side) for number in range(1, 61)]
    node = make_orthanc(aets={"KONSIL": ("127.0.0.1", 11112)})
    hold(node, *many)
    taken = Taken()

    def take_and_kill(obj: Any) -> None:
        taken.take(obj)
        if len(taken.objects) == 5:
            node.kill()

    with opened(way, node, patience=20.0) as source:
        ((series,),) = [study.series for study in source.find_studies()]
        with pytest.raises(PacsUnreachable):
            source.fetch_series(series, taken.has, take_and_kill)
        came = len(taken.objects)
        assert 5 <= came < 60
        with pytest.raises(PacsUnreachable):
            source.find_studies()
        node.start()
        assert source.fetch_series(series, taken.has, taken.take) == Fetched(60 - came, 60)
    assert taken.uids == sorted(obj.SOPInstanceUID for obj in many)
