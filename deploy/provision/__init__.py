"""A consortium's keys, certificates and register: from the operator's first folder to a party that is let in."""
