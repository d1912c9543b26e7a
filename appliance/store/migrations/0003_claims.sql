-- What PCs say they have written of an image to a disk, until it is proved.
CREATE TABLE claims (
	serial TEXT    NOT NULL,
	wwn    TEXT    NOT NULL,
	model  TEXT    NOT NULL,
	bytes  INTEGER NOT NULL,
	image  TEXT    NOT NULL, -- root
	frames BLOB    NOT NULL, -- a bit per frame
	at     TEXT    NOT NULL,
	PRIMARY KEY (serial, wwn, model, bytes, image)
);
