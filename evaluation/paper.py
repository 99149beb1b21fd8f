"""Figures that the paper reports for MBE2.0 (MOON2.0, section 6). They are quoted, on other data: never compared."""

# Recall@10 for t2mm, i2mm, mm2mm, t2i, i2t, then accuracy of class and attribute, in per cent.
PAPER = {
    "MOON2.0": (63.09, 91.08, 94.21, 73.12, 64.91, 68.08, 84.29),
    "w/o modality-driven MoE": (51.29, 74.59, 78.45, 62.16, 56.21, 62.55, 75.62),
    "w/o dual-level alignment": (37.99, 65.72, 67.45, 31.45, 23.35, 57.12, 67.24),
    "w/o co-augmentation": (59.69, 78.17, 80.62, 64.79, 58.68, 66.21, 77.77),
    "w/o dynamic filtering": (60.63, 83.40, 80.00, 70.40, 63.21, 67.99, 84.04),
}
