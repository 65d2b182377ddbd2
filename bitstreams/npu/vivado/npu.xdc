# No pins and no clocks: the processor's block brings its own constraints.
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]
