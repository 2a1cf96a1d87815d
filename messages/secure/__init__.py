"""What keeps single updates and single patients secret. Pure: bytes in, bytes out; no clock, disk or network."""
