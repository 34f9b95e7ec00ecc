"""Jobs on several processes: the place of this process among them, and how they are started, watched and ended."""
