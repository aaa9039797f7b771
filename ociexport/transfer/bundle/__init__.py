"""Updates that leave out what the far side has: thin images, layers made from older layers, volumes."""
