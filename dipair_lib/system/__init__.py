"""What every floor may use: this machine, its files, progress, interruptions. Knows no data and no model."""
