"""What is to be known of TFLite's builtin operators: where weights and shaping values stand, how scales relate.

Sources: the operators' quantisation specification (ai.google.dev/edge/litert/conversion/tensorflow/quantization)
and what XNNPACK's delegate asks of its nodes.
"""

from __future__ import annotations

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
"""Operators with which XNNPACK fuses the PAD before them."""

WEIGHT_AXIS = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "TRANSPOSE_CONV": 0,
    "FULLY_CONNECTED": 0,
    "CONV_3D": 4,
    "CONV_3D_TRANSPOSE": 3,
    "EMBEDDING_LOOKUP": 0,
}
"""Axis of the output channels in the weights, input 1, which have a scale for each."""

BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "CONV_3D": 2, "TRANSPOSE_CONV": 3}
"""Position of the bias, whose scale is that of the input times that of the weights."""

DATA = {"TRANSPOSE_CONV": 2, "CONV_3D_TRANSPOSE": 2}
"""Position of the activations where it is not 0."""

SAME_SCALE = frozenset(
    {
        "AVERAGE_POOL_2D",
        "BATCH_TO_SPACE_ND",
        "BROADCAST_TO",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "DYNAMIC_UPDATE_SLICE",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "REVERSE_V2",
        "SELECT",
        "SELECT_V2",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TILE",
        "TOPK_V2",
        "TRANSPOSE",
        "UNPACK",
    }
)
"""Operators that move 8-bit values without changing them: inputs and outputs share scale and zero point."""

FIXED_SCALE = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "L2_NORMALIZATION": (1 / 128, 0),
    "LOG_SOFTMAX": (16 / 256, 127),
}
"""(scale, zero point) of an int8 output that the kernel demands."""

LEAST_ZERO_POINTS = {("RSQRT", 0): 0, ("SQRT", 0): 0, ("LOG", 0): 0, ("DIV", 1): -1}
"""Steps from the lowest 8-bit value to the zero point of inputs whose kernel refuses negative numbers or zeros."""

SCALE_RATIOS = {"ADD": (2**-10, 2**8), "SUB": (2**-10, 2**8), "MUL": (2**-16, 2**8)}
"""Range of an input's scale (MUL: both inputs' product) over the output's outside which XNNPACK leaves 8 bits alone."""

SHAPING_INPUTS = {
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "EXPAND_DIMS", "TILE", "BROADCAST_TO", "REVERSE_V2"), (1,)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"), (1,)),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD", "ARG_MAX", "ARG_MIN", "CUMSUM", "TOPK_V2"), (1,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "ONE_HOT"), (1,)),
    **dict.fromkeys(("SPLIT", "TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", "FILL", "RANDOM_UNIFORM"), (0,)),
    **dict.fromkeys(("SLICE", "SPLIT_V", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (1, 2)),
    "STRIDED_SLICE": (1, 2, 3),
    "RANGE": (0, 1, 2),
    "SCATTER_ND": (2,),
    "SPARSE_TO_DENSE": (1,),
}
"""Inputs whose values decide which elements go where; only as constants do they leave XNNPACK static shapes."""

NAMED_INPUTS = {
    "TRANSPOSE": ("perm", 1),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY"), ("axes", 1)),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "EXPAND_DIMS", "CUMSUM"), ("axis", 1)),
    "SPLIT": ("axis", 0),
    "SPLIT_V": ("axis", 2),
}
"""Inputs that are attributes in ONNX: (attribute, position)."""

FLOATS_THAT_SHAPE = {"POW": (1,), "RANGE": (0, 1, 2)}

INDEX_INPUTS = {"GATHER": 1, "GATHER_ND": 1, "EMBEDDING_LOOKUP": 0, "ONE_HOT": 0, "SCATTER_ND": 0}
"""Integer inputs that must stay inside a dimension of another tensor; zeros always do."""

FOLDED = ("DEQUANTIZE", "DENSIFY")
"""Operators that run once on a constant, whose result is a constant to what follows."""
