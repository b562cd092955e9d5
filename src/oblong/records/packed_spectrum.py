"""The singular values of one matrix, compressed without loss."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

from oblong.records.base import Part, digest_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float64]

FLOAT_BYTES: Final = 8
# No matrix has as many rows and columns; what a forged file can make us inflate ends at 128 MiB.
MAX_VALUES: Final = 1 << 24


def _decode(data: Any) -> Any:
    return base64.b64decode(data, validate=True) if isinstance(data, str) else data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


class PackedSpectrum(Part):
    """The singular values of one matrix without loss: the bytes of equal significance together, deflated.

    Neighbours of a descending sequence share their leading bytes, which therefore compress; the trailing ones do not.
    Gaussian weights take 6.2 bytes per value.
    """

    num_values: int = Field(ge=1, le=MAX_VALUES)
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$", description="of the values as little-endian float64")
    data: Annotated[bytes, BeforeValidator(_decode), PlainSerializer(_encode, when_used="json")]

    @classmethod
    def pack(cls, values: FloatArray) -> Self:
        """Sort and compress.

        Args:
            values: shape (r,), not negative, finite. The ends come from other iterations than the rest, so
                neighbours may be out of order in the last digits.
        """
        import numpy as np

        raw = np.sort(values)[::-1].astype("<f8").tobytes()
        planes = b"".join(raw[index::FLOAT_BYTES] for index in range(FLOAT_BYTES))
        return cls(num_values=values.size, digest=digest_bytes(raw), data=zlib.compress(planes))

    def unpack(self) -> FloatArray:
        """The values, shape (r,), float64, descending.

        Raises:
            ValueError: the data are not `num_values` descending singular values with this digest.
        """
        import numpy as np

        planes = _inflate(self.data, FLOAT_BYTES * self.num_values)
        raw = bytearray(len(planes))
        for index in range(FLOAT_BYTES):
            raw[index::FLOAT_BYTES] = planes[index * self.num_values : (index + 1) * self.num_values]
        if digest_bytes(memoryview(raw)) != self.digest:
            raise ValueError("the values do not have their digest")
        values = np.frombuffer(raw, "<f8").astype(np.float64)
        if not (np.isfinite(values).all() and values[-1] >= 0 and (np.diff(values) <= 0).all()):
            raise ValueError("the values are not finite, not negative and descending")
        return values


def _inflate(data: bytes, size: int) -> bytes:
    """Decompress to exactly `size` bytes, and never to more than one more."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"the values cannot be decompressed: {error}") from error
    if len(content) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("the number of values is not the one announced")
    return content
