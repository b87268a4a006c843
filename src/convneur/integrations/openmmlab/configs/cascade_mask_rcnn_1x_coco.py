"""Cascade Mask R-CNN with ConvNeur-M1 on COCO, 12 epochs: mmdetection 3."""

_base_ = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["convneur.integrations.openmmlab"])

# Weights: a run of `convneur train` on ImageNet; None to begin from nothing, which 12 epochs are too short for.
model = dict(
    backbone=dict(_delete_=True, type="ConvNeur", variant="convneur_m1", drop_path_rate=0.1, weights=None),
    neck=dict(in_channels=[40, 80, 160, 320]),  # m2: 48, 96, 192, 384; m3: 64, 128, 256, 512; m4: 80, 160, 320, 640
)
# 8 GPUs with 2 images each
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"global_branch": dict(lr_mult=0.1, decay_mult=0.0), "gamma": dict(decay_mult=0.0)},
    ),
)
