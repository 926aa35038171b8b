"""T-GEMs: train, evaluate and run text-guided exit modules on CLIP image encoders. Imports are lazy."""


def create_model_and_transforms(folder_or_hub_id, aug_cfg=None, **options):
    """Load a saved T-GEM with its backbone, as `open_clip.create_model_and_transforms` loads a model.

    Args:
        folder_or_hub_id: Folder that `tgems export` or `save_pretrained` wrote, or `owner/name` on the hub.
        aug_cfg: Augmentation of the training transform, open_clip's `AugmentationCfg` as a mapping.
        options: `device`; `calibration`, the data set whose thresholds to use; `max_rate`, the share of the encoder
            that no image may exceed; `chunk`, images of a forward pass; `backbone`, where to read it from instead of
            the reference that the folder holds; `tokenizer`, one to use instead of the backbone's own; `cache_dir`,
            `revision`, `token` and others of huggingface_hub.

    Returns:
        Model (`tgems.runtime.model.EarlyExitCLIP`), transform for training, transform for inference.

    Raises:
        UserError: The folder or its backbone cannot be loaded, or they do not belong together.
    """
    from tgems.backbones.load import train_transform
    from tgems.runtime.model import EarlyExitCLIP

    model = EarlyExitCLIP.from_pretrained(folder_or_hub_id, **options)
    return model, train_transform(model.backbone, aug_cfg), model.preprocess


def get_tokenizer(folder_or_hub_id, tokenizer=None, **download):
    """Tokenizer of a saved T-GEM's backbone, as `open_clip.get_tokenizer`; reads no weights.

    Args:
        folder_or_hub_id: See `create_model_and_transforms`.
        tokenizer: `local-dir:FOLDER` or a repository id on the hub, to use instead of the backbone's own tokenizer.
        download: Of huggingface_hub's `snapshot_download`.

    Returns:
        Texts -> int64 `[m, context_length]`.

    Raises:
        UserError: It is no saved T-GEM, or its backbone is unknown here.
    """
    from tgems.runtime.hub import load_tokenizer

    return load_tokenizer(folder_or_hub_id, tokenizer, **download)
