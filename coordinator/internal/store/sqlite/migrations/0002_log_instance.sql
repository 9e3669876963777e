-- Which of an app's instances on the node the output is of; '' where it is of none.
ALTER TABLE logs ADD COLUMN instance TEXT NOT NULL DEFAULT '';
