"""The numbers of devices, as file systems store them."""

from __future__ import annotations


def device_number(device: tuple[int, int]) -> int:
    """Return the number of a device: 12 bits of the major number among those of the minor one.

    Spec: Linux include/linux/kdev_t.h, `new_encode_dev`.
    """
    major, minor = device
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
