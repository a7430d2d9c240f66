"""Sample apps: what an app carries beside the model, and a project of your own out of a bundle."""
