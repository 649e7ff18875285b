mod section_2_3_8;
mod section_3_1;
mod section_3_3;
mod section_3_5;
mod section_4_1_1;
mod section_4_1_4;
mod section_4_5_2;
mod section_4_5_3;
