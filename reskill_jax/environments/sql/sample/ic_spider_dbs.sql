-- Four small databases in the form of InterCode's dump; names and figures are invented.
CREATE DATABASE  IF NOT EXISTS `harbour` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `harbour`;
/*!40103 SET TIME_ZONE='+00:00' */;

DROP TABLE IF EXISTS `ship`;
CREATE TABLE `ship` (
  `ship_id` int NOT NULL AUTO_INCREMENT,
  `name` varchar(40) COLLATE utf8mb4_general_ci NOT NULL DEFAULT '',
  `flag` char(2) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `length_m` float(10,2) DEFAULT NULL,
  `built` int DEFAULT NULL,
  PRIMARY KEY (`ship_id`),
  UNIQUE KEY `name` (`name`)
) ENGINE=InnoDB AUTO_INCREMENT=9 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `ship` WRITE;
INSERT INTO `ship` VALUES (1,'Grey Heron','NO',84.50,1998),(2,'Fisherman\'s Luck','DK',21.25,1976),(3,'Salt & Pepper; Two','NO',47.00,2004),(4,'Éclair ','FR',112.75,2015),(5,'Old Anna','DE',18.00,1931),(6,'Lighthouse Keeper','DK',63.40,2004),(7,'Blue Whale',NULL,150.00,2019),(8,'Little Wave','FR',12.10,2010);
UNLOCK TABLES;

DROP TABLE IF EXISTS `berth`;
CREATE TABLE `berth` (
  `berth_id` int NOT NULL,
  `quay` text COLLATE utf8mb4_general_ci,
  `depth_m` decimal(19,4) DEFAULT NULL,
  PRIMARY KEY (`berth_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `berth` WRITE;
INSERT INTO `berth` VALUES (1,'North',6.5000),(2,'North',8.0000),(3,'South',4.2500),(4,'Fish',3.0000);
UNLOCK TABLES;

DROP TABLE IF EXISTS `visit`;
CREATE TABLE `visit` (
  `ship_id` int NOT NULL,
  `berth_id` int NOT NULL,
  `arrived` datetime NOT NULL,
  `nights` int DEFAULT NULL,
  PRIMARY KEY (`ship_id`,`arrived`),
  KEY `visit_berth` (`berth_id`),
  CONSTRAINT `visit_ship` FOREIGN KEY (`ship_id`) REFERENCES `ship` (`ship_id`),
  CONSTRAINT `visit_berth` FOREIGN KEY (`berth_id`) REFERENCES `berth` (`berth_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `visit` WRITE;
INSERT INTO `visit` VALUES (1,1,'2021-05-02 08:00:00',2),(1,2,'2021-07-19 17:30:00',1),(2,4,'2021-05-03 05:15:00',4),(3,3,'2021-06-11 12:00:00',3),(4,2,'2021-06-12 21:45:00',1),(6,1,'2021-08-01 09:00:00',5),(6,3,'2021-08-09 10:20:00',2),(7,2,'2021-09-30 23:59:00',NULL);
UNLOCK TABLES;

CREATE DATABASE  IF NOT EXISTS `orchard` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `orchard`;

DROP TABLE IF EXISTS `tree`;
CREATE TABLE `tree` (
  `tree_id` int NOT NULL,
  `fruit` varchar(20) COLLATE utf8mb4_general_ci NOT NULL,
  `sort` varchar(20) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `planted` int DEFAULT NULL,
  `row_number_` int DEFAULT NULL,
  PRIMARY KEY (`tree_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `tree` WRITE;
INSERT INTO `tree` VALUES (1,'apple','Boskoop',1988,1),(2,'apple','Elstar',2001,1),(3,'pear','Conference',1995,2),(4,'plum','Victoria',2001,2),(5,'apple','Boskoop',2012,3),(6,'cherry',NULL,2012,3),(7,'pear','Comice',2018,4);
UNLOCK TABLES;

DROP TABLE IF EXISTS `harvest`;
CREATE TABLE `harvest` (
  `tree_id` int NOT NULL,
  `year` int NOT NULL,
  `kg` double DEFAULT NULL,
  PRIMARY KEY (`tree_id`,`year`),
  CONSTRAINT `harvest_tree` FOREIGN KEY (`tree_id`) REFERENCES `tree` (`tree_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `harvest` WRITE;
INSERT INTO `harvest` VALUES (1,2019,41.5),(1,2020,12.25),(2,2019,30),(2,2020,33.5),(3,2019,22),(3,2020,25),(4,2020,18.75),(5,2020,9.5),(6,2019,4),(6,2020,7.5);
UNLOCK TABLES;

CREATE DATABASE  IF NOT EXISTS `bakery` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `bakery`;

DROP TABLE IF EXISTS `bread`;
CREATE TABLE `bread` (
  `bread_id` int NOT NULL,
  `name` varchar(30) COLLATE utf8mb4_general_ci NOT NULL,
  `flour` varchar(10) COLLATE utf8mb4_general_ci NOT NULL,
  `price` float(4,1) NOT NULL,
  PRIMARY KEY (`bread_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `bread` WRITE;
INSERT INTO `bread` VALUES (1,'Country loaf','rye',4.5),(2,'Baguette','wheat',1.8),(3,'Seven grains','mixed',5.2),(4,'Roll','wheat',0.6);
UNLOCK TABLES;

DROP TABLE IF EXISTS `sale`;
CREATE TABLE `sale` (
  `bread_id` int NOT NULL,
  `day` date NOT NULL,
  `pieces` int NOT NULL,
  PRIMARY KEY (`bread_id`,`day`),
  CONSTRAINT `sale_bread` FOREIGN KEY (`bread_id`) REFERENCES `bread` (`bread_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
LOCK TABLES `sale` WRITE;
INSERT INTO `sale` VALUES (1,'2022-03-01',14),(1,'2022-03-02',9),(2,'2022-03-01',55),(2,'2022-03-02',61),(4,'2022-03-01',120);
UNLOCK TABLES;

CREATE DATABASE  IF NOT EXISTS `quarry` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `quarry`;

DROP TABLE IF EXISTS `stone`;
CREATE TABLE `stone` (
  `stone_id` int NOT NULL,
  `kind` text COLLATE utf8mb4_general_ci,
  PRIMARY KEY (`stone_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
