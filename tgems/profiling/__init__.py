"""fvcore traces of towers and exit modules, which prove the closed forms of multiply-accumulates (MACs)."""
