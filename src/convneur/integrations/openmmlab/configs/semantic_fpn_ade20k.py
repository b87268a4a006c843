"""Semantic FPN with ConvNeur-M1 on ADE20K: mmsegmentation 1."""

_base_ = "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"
custom_imports = dict(imports=["convneur.integrations.openmmlab"])

model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type="ConvNeur", variant="convneur_m1", drop_path_rate=0.1, weights=None),
    neck=dict(in_channels=[40, 80, 160, 320]),  # m2: 48, 96, 192, 384; m3: 64, 128, 256, 512; m4: 80, 160, 320, 640
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"global_branch": dict(lr_mult=0.1, decay_mult=0.0), "gamma": dict(decay_mult=0.0)},
    ),
)
