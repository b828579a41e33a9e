"""Reading other people's labels: one file a label format, all of them behind `item.Source`."""
