"""Tables and figures, made from the files of an evaluation; reads neither models nor data sets."""
