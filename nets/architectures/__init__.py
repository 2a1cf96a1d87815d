"""The nets, a file each. torch and MONAI only inside `build`: who reads an experiment file needs neither."""
