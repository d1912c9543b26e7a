-- Where disks were, as reports showed them: a disk is a thing of its own. Each row is
-- one stay in one device.
CREATE TABLE stays (
	disk   TEXT    NOT NULL, -- its key
	n      INTEGER NOT NULL, -- 1, 2, 3… of this disk
	device TEXT    NOT NULL REFERENCES devices (id),
	doc    TEXT    NOT NULL,
	PRIMARY KEY (disk, n)
);
CREATE INDEX stays_by_device ON stays (device);
