"""From a finished run to what runs in the field: exports, their parity gate, and the model registry."""
