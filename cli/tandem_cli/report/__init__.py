"""What a run has to show for itself: its history read back, summed up, tabled, plotted and made into a page."""
