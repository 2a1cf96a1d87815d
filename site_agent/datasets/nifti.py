"""One NIfTI file: header, where it lies in millimetres, voxels. Everything that reads NIfTI reads it here.

Nothing is believed before it is checked: kind of numbers, size (before anything is allocated), exact length, the
checksum of a compressed file (it is read to its end), units, and that sform and qform say the same.

NIfTI-1 (Cox et al. 2004; nifti1.h) and NIfTI-2, one file, compressed by gzip (RFC 1952) or not: the content says which.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from messages.reasons import Reason
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.opening import NotRegular, open_file, read_file, show_name
from site_agent.datasets.vault import SUFFIX, Vault

Stream = BufferedIOBase
"""A file, a gzip file's content, or bytes in memory."""
T = TypeVar("T")
MOST_VOXELS = 2**31
"""Voxels of one file, and of one image after resampling, at most: 8 GiB as float32."""
AGREE = 0.1
"""How far (in voxels, at the corners) a file's two affines, sform and qform, may lie apart."""
SAME_MM = 1e-2
"""Headers store affines as float32, through sform or quaternion: the same grid differs by rounding."""
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Low three bits of xyzt_units → mm (nifti1.h: metre, millimetre, micron); anything else says nothing: mm."""
_MOST_RATIO = 1040
"""Deflate makes of one byte at most 1032."""
_STEP = 2**20
_MOST_HEADER = 2**26
"""Bytes before the voxels at most: extensions are notes, not images."""
_GZIP = b"\x1f\x8b"
_SIZES: dict[int, type[Any]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_ORDERS: tuple[tuple[Literal["little", "big"], str], ...] = (("little", "<"), ("big", ">"))
_OTHERS = (
    (b"vers", "a pointer of Git LFS: fetch its content (git lfs pull)"),
    (b"/ann", "a pointer of git-annex: fetch its content (git annex get)"),
    (b"<!DO", "a web page (of a login?)"),
    (b"<!do", "a web page (of a login?)"),
    (b"<htm", "a web page (of a login?)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"NRRD", "NRRD, not NIfTI"),
    (b"\x89HDF", "HDF5 (MINC?), not NIfTI"),
    (b"\0\0\0\0", "no NIfTI file: it begins with zeros, as a copy that broke off does"),
)
"""What else comes under the name of a NIfTI file, by its first bytes."""
_WORDS = {0: "nothing", 1: "single bits", 128: "colour (RGB)", 2304: "colour (RGBA)"}


@dataclass(frozen=True)
class NiftiFile:
    """One file, read to its end.

    Attributes:
        shape: of its voxels; axes of length 1 behind the third are none (FSL, SPM and ITK write such).
        affine: float64 (4, 4), voxel indices → mm in RAS; not yet judged (`look.judge_geometry`).
        placed: whether the header says where the image lies (sform or qform).
    """

    name: str
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    placed: bool
    _stored: npt.NDArray[Any]
    _slope: float
    _intercept: float

    def read_voxels(self, dtype: type[np.floating[Any]] = np.float32) -> npt.NDArray[Any]:
        """All voxels, scaled as the header says. What a narrower type cannot hold becomes infinite."""
        with np.errstate(all="ignore"):
            factors = (np.asanyarray(self._slope), np.asanyarray(self._intercept))
            slope, intercept = (one.astype(dtype) if np.can_cast(one, dtype) else one for one in factors)
            scaled: npt.NDArray[Any] = apply_read_scaling(self._stored, slope, intercept)
            return scaled.astype(dtype, copy=False)

    def read_whole(self) -> npt.NDArray[Any]:
        """All voxels of a label map, which are whole numbers.

        Raises:
            CaseError: NOT_FINITE, or UNKNOWN_LABEL_VALUE where values lie between integers, or beyond all labels.
        """
        if self._stored.dtype.kind in "iu" and (self._slope, self._intercept) == (1.0, 0.0):
            return self._stored
        voxels = self.read_voxels(np.float64)
        if not np.isfinite(voxels).all():
            raise CaseError(Reason.NOT_FINITE, "the label map holds NaN or infinity", where=self.name)
        rounded: npt.NDArray[Any] = np.rint(voxels)
        # integers stored with a scale factor come back with rounding errors; resampled labels come back as fractions
        if np.abs(voxels - rounded).max(initial=0) > 1e-3:
            raise CaseError(Reason.UNKNOWN_LABEL_VALUE, "values between integers (resampled?)", where=self.name)
        if np.abs(rounded).max(initial=0) > 2**31:
            raise CaseError(Reason.UNKNOWN_LABEL_VALUE, "values beyond all labels", where=self.name)
        return rounded.astype(np.int64)

    def holds_same(self, other: NiftiFile) -> bool:
        """Whether another file says the same: grid and voxels, however they are stored."""
        return (
            self.shape == other.shape
            and bool(np.allclose(self.affine, other.affine, atol=SAME_MM, rtol=0))
            and bool(np.array_equal(self.read_voxels(), other.read_voxels(), equal_nan=True))
        )


def read_nifti(path: Path, vault: Vault | None = None, grid: tuple[int, ...] | None = None) -> NiftiFile:
    """Read one file.

    Args:
        vault: opens a file that is encrypted.
        grid: the shape that its first three axes have to have: another one is refused before a voxel is read.

    Raises:
        CaseError: UNREADABLE (no regular file, no NIfTI, damaged, cut short, longer than it says), UNSUPPORTED_IMAGE
            (complex, colour, larger than `MOST_VOXELS`), EMPTY_IMAGE (no voxel), AFFINE_MISMATCH (sform and qform
            contradict each other), MISSING_GEOMETRY, SHAPE_MISMATCH (`grid`), OUT_OF_MEMORY.
    """
    return _read_file(path, vault, partial(_read_image, grid=grid))


def read_grid(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape and affine (voxel indices → mm in RAS, not yet judged), out of the header alone.

    Raises:
        CaseError: as `read_nifti`, for what the header says.
    """
    return _read_file(path, None, _read_header_grid)


def _read_file(path: Path, vault: Vault | None, read: Callable[[Stream, int, str], T]) -> T:
    """Args: `read`: takes the stream, the bytes that it can hold at most, and the name to complain of."""
    name = show_name(path.name)
    with hold_faults(name):
        try:
            if path.name.endswith(SUFFIX):
                if vault is None:
                    raise CaseError(Reason.UNREADABLE, "is encrypted, and no key was given", where=name)
                content = vault.open(read_file(path))
                return _read_stream(BytesIO(content), len(content), name, read)
            with open_file(path) as file:
                return _read_stream(file, os.fstat(file.fileno()).st_size, name, read)
        except (OSError, EOFError, ValueError, zlib.error, HeaderDataError, WrapStructError) as error:
            raise CaseError(Reason.UNREADABLE, f"cannot be read ({_tell_why(error)})", where=name) from None


def _read_stream(file: Stream, size: int, name: str, read: Callable[[Stream, int, str], T]) -> T:
    start = file.read(len(_GZIP))
    file.seek(0)
    if start != _GZIP:
        return read(file, size, name)
    with gzip.GzipFile(fileobj=file) as stream:
        return read(stream, size * _MOST_RATIO, name)


def _read_header_grid(stream: Stream, _most: int, name: str) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    header = _read_header(stream, name)
    shape = _read_shape(header.structarr, name)
    return _cut_tail(shape), _read_affine(header, shape, name)[0]


def _read_image(stream: Stream, most: int, name: str, grid: tuple[int, ...] | None) -> NiftiFile:
    header = _read_header(stream, name)
    fields = header.structarr
    shape = _read_shape(fields, name)
    dtype = _read_dtype(header, name)
    offset = _read_offset(fields, header, name)
    if grid is not None and _cut_tail(shape)[:3] != grid:
        what = f"shape {_cut_tail(shape)}, the label's is {grid}"
        raise CaseError(Reason.SHAPE_MISMATCH, what, where=name)
    size = require_room(shape, dtype, name)
    if offset + size > most:
        raise CaseError(Reason.UNREADABLE, f"ends before the {_show_shape(shape)} voxels that it names", where=name)
    slope, intercept = _read_scaling(fields, name)
    affine, placed = _read_affine(header, shape, name)
    _skip_bytes(stream, offset - _size_of(header), name)
    stored = np.frombuffer(_read_exactly(stream, size, name), dtype=dtype).reshape(shape, order="F")
    _require_end(stream, name)
    stored = stored.reshape(_cut_tail(shape), order="F")
    return NiftiFile(name, stored.shape, affine, placed, stored, slope, intercept)


def _read_header(stream: Stream, name: str) -> Any:
    start = stream.read(4)
    for order, sign in _ORDERS:
        size = int.from_bytes(start, order)
        if len(start) == 4 and size in _SIZES:
            rest = stream.read(size - 4)
            if len(rest) != size - 4:
                break
            header = _SIZES[size](start + rest, endianness=sign, check=False)
            magic = bytes(header.structarr["magic"].tobytes())[:3]
            if magic in (b"n+1", b"n+2"):
                return header
            if magic in (b"ni1", b"ni2"):
                raise CaseError(Reason.UNREADABLE, "is the header of a pair: the voxels are elsewhere", where=name)
            break
    what = next((what for magic, what in _OTHERS if start and start == magic), "")
    raise CaseError(
        Reason.UNREADABLE, (what and f"is {what}") or ("is empty" if not start else "not a NIfTI file"), where=name
    )


def require_room(shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "") -> int:
    """Bytes of so many numbers, before anything of them is allocated.

    Raises:
        CaseError: UNSUPPORTED_IMAGE, OUT_OF_MEMORY: more than `MOST_VOXELS`, or than this machine's memory holds, as
            they are and as float32.
    """
    voxels = math.prod(shape)
    if voxels > MOST_VOXELS:
        what = f"{_show_shape(shape)} are more than 2^31 voxels"
        raise CaseError(Reason.UNSUPPORTED_IMAGE, what, where=name)
    needed = voxels * (dtype.itemsize + 4)
    if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        what = f"{_show_shape(shape)} voxels need {needed / 2**30:.1f} GiB, more than this machine's memory"
        raise CaseError(Reason.OUT_OF_MEMORY, what, where=name)
    return voxels * dtype.itemsize


def _cut_tail(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1 behind the third."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _size_of(header: Any) -> int:
    return int(header.sizeof_hdr)


def _read_shape(fields: Any, name: str) -> tuple[int, ...]:
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise CaseError(Reason.UNREADABLE, f"names {axes} axes", where=name)
    shape = tuple(int(length) for length in fields["dim"][1 : axes + 1])
    if min(shape) < 0:
        raise CaseError(Reason.UNREADABLE, f"names an axis of {min(shape)} voxels", where=name)
    if 0 in shape:
        raise CaseError(Reason.EMPTY_IMAGE, f"{_show_shape(shape)}: there is no voxel", where=name)
    return shape


def _read_dtype(header: Any, name: str) -> np.dtype[Any]:
    code = int(header.structarr["datatype"])
    if code not in _WORDS:
        try:
            dtype: np.dtype[Any] = header.get_data_dtype()
        except (HeaderDataError, KeyError):
            raise CaseError(
                Reason.UNREADABLE, f"names a type of numbers that there is not ({code})", where=name
            ) from None
        if dtype.kind in "iuf" and dtype.itemsize:
            return dtype
    what = _WORDS.get(code, "complex numbers" if code in (32, 1792, 2048) else f"type {code}")
    raise CaseError(Reason.UNSUPPORTED_IMAGE, f"holds {what}, not one number a voxel", where=name)


def _read_offset(fields: Any, header: Any, name: str) -> int:
    least = _size_of(header) + 4
    said = float(fields["vox_offset"])
    if said == 0:  # as old writers leave it
        return least
    if not least <= said <= _MOST_HEADER:  # NaN, too
        raise CaseError(Reason.UNREADABLE, f"its voxels begin at byte {said:g}", where=name)
    return int(said)


def _read_scaling(fields: Any, name: str) -> tuple[float, float]:
    """Slope 0 means that there is none (nifti1.h), and so does NaN, which nibabel writes."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(intercept):
        raise CaseError(Reason.UNREADABLE, f"scales its voxels by {slope:g} and {intercept:g}", where=name)
    return slope, intercept


def _read_affine(header: Any, shape: tuple[int, ...], name: str) -> tuple[npt.NDArray[np.float64], bool]:
    """The affine in millimetres, and whether the header says one."""
    fields = header.structarr
    coded_s, coded_q = int(fields["sform_code"]) != 0, int(fields["qform_code"]) != 0
    pixdim = np.asarray(fields["pixdim"], dtype=np.float64)
    if not coded_s and not ((pixdim[1:4] > 0) & np.isfinite(pixdim[1:4])).all():
        what = f"says voxels of {' × '.join(f'{size:g}' for size in pixdim[1:4])}"
        raise CaseError(Reason.MISSING_GEOMETRY, what, where=name)
    by_quaternion = _affine_of_quaternion(header, pixdim, name) if coded_q else None
    if coded_s:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        _require_agreement(affine, by_quaternion, pixdim, shape, name)
    elif by_quaternion is not None:
        affine = by_quaternion
    else:
        affine = np.asarray(header.get_base_affine(), dtype=np.float64)
    scale = _MILLIMETRES.get(int(fields["xyzt_units"]) & 7, 1.0)
    if scale != 1.0:
        affine = affine.copy()
        affine[:3] *= scale
    return affine, coded_s or coded_q


def _affine_of_quaternion(header: Any, pixdim: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    """Method 2 of nifti1.h; a qfac that is neither -1 nor 1 counts as 1, as there."""
    copied = header.copy()
    copied["pixdim"][0] = -1 if pixdim[0] == -1 else 1
    copied["pixdim"][1:4] = np.abs(pixdim[1:4])
    try:
        return np.asarray(copied.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        raise CaseError(Reason.AFFINE_MISMATCH, "its qform is no rotation", where=name) from None


def _require_agreement(
    sform: npt.NDArray[np.float64],
    qform: npt.NDArray[np.float64] | None,
    pixdim: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    name: str,
) -> None:
    """Raise CaseError where a file says two different things of where it lies, or of how large its voxels are."""
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sform).all() or not sizes.min() > 0:
        return  # no usable position: `look.judge_geometry` says so
    if qform is not None:
        ends = np.array(
            [(i, j, k, 1) for i in (0, shape[0]) for j in (0, (*shape, 1)[1]) for k in (0, (*shape, 1, 1)[2])]
        )
        apart = float(np.abs((sform - qform) @ ends.T).max())
        if not apart <= AGREE * sizes.min():
            what = f"its sform and qform lie up to {apart:.3g} apart: it says two positions"
            raise CaseError(Reason.AFFINE_MISMATCH, what, where=name)
    elif not _agree_in_size(pixdim[1:4], sizes):
        said, other = (" × ".join(f"{size:g}" for size in one) for one in (pixdim[1:4], sizes))
        what = f"says voxels of {said} (pixdim) and of {other} (sform)"
        raise CaseError(Reason.AFFINE_MISMATCH, what, where=name)


def _agree_in_size(pixdim: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> bool:
    """Writers that set the sform alone leave pixdim at 1, or at nothing; any other value is meant."""
    meant = bool((pixdim > 0).all()) and not np.array_equal(pixdim, (1, 1, 1))
    return not meant or bool(np.allclose(pixdim, sizes, rtol=0.01, atol=0))


def _skip_bytes(stream: Stream, count: int, name: str) -> None:
    while count > 0:
        read = len(stream.read(min(count, _STEP)))
        if not read:
            raise CaseError(Reason.UNREADABLE, "ends before its voxels", where=name)
        count -= read


def _read_exactly(stream: Stream, size: int, name: str) -> bytearray:
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        read = stream.readinto(view[done : done + 16 * _STEP])
        if not read:
            raise CaseError(Reason.UNREADABLE, f"ends after {done} of {size} bytes of voxels", where=name)
        done += read
    return content


def _require_end(stream: Stream, name: str) -> None:
    """Read on to the end, where gzip's checksum stands; nothing but a little padding (zeros) may follow."""
    beyond = 0
    while chunk := stream.read(_STEP):
        beyond += len(chunk)
        if beyond > _STEP or chunk.count(0) != len(chunk):
            raise CaseError(Reason.UNREADABLE, "holds more than the voxels that it names", where=name)


def _show_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _tell_why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission: let the site agent's user read it"
    if isinstance(error, OSError) and not isinstance(error, NotRegular | gzip.BadGzipFile):
        return (error.strerror or type(error).__name__).lower()
    return show_name((str(error).strip().splitlines() or [type(error).__name__])[0][:120])
