"""Episodes played by a crew of workers, processes of this machine or actors of a cluster; answers come from here."""
