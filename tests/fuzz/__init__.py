"""Random damage to what sites read: no defect, no hang, no memory beyond a bound, nothing else lost."""
